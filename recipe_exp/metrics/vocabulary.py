"""Word lists of the recipe metrics; all words lower-case and singular."""

from __future__ import annotations


def word_set(text: str) -> frozenset[str]:
    """Return the words of a text that spaces divide."""
    return frozenset(text.split())


# Single words that name a raw food wherever they stand. Left out: what a recipe makes (dough, sauce), what
# every kitchen has and few lists mention (water, ice), and words that are mostly verbs or tools (season, dish).
FOODS = word_set(
    """
    allspice almond anchovy apple apricot artichoke arugula asparagus aubergine avocado bacon banana barley
    basil bean beef beer beet beetroot blackberry blueberry bourbon brandy breadcrumb broccoli broth bulgur
    butter buttermilk cabbage caper caraway cardamom carrot cashew cauliflower cayenne celery cheddar cheese
    cherry chicken chickpea chili chilli chive chocolate cilantro cinnamon clam clove cocoa coconut cod coffee
    coriander corn cornflour cornmeal cornstarch courgette couscous crab cranberry cream cucumber cumin
    currant curry date dill duck egg eggplant fennel feta fig fish flour garlic gelatin ginger grape
    grapefruit gruyere haddock ham hazelnut honey horseradish jalapeno kale ketchup kidney lamb lard leek
    lemon lemongrass lentil lettuce lime liver lobster macaroni mace mackerel mango maple margarine marjoram
    marshmallow mascarpone mayonnaise milk mint molasses mozzarella mushroom mussel mustard mutton noodle
    nutmeg oat oatmeal oil okra olive onion orange oregano oyster pancetta papaya paprika parmesan parsley
    parsnip pasta pea peach peanut pear pecan pepper pepperoni pineapple pistachio plum pork potato prawn
    prosciutto prune pumpkin quinoa radish raisin raspberry rhubarb rice ricotta rosemary rum saffron sage
    salmon salsa salt sausage scallion scallop sesame shallot sherry shortening shrimp sirloin spaghetti
    spinach squash squid stock strawberry suet sugar sultana syrup tarragon thyme tofu tomato tortilla trout
    tuna turkey turmeric turnip vanilla veal venison vinegar vodka walnut whiskey wine yeast yoghurt yogurt
    zucchini
    """
)

# Nouns that stand behind the food they are a part or form of: the head of `chicken breast` is `chicken`.
PART_NOUNS = word_set(
    """
    bit breast bulb bone cap chop chunk clove crumb cube cutlet drumstick fillet filet floret flake flesh
    frond granule ground half heart kernel leaf leg link loin meat nib nut pellet piece pod powder quarter
    rib ring root seed segment shank shoulder skin slice spear spray sprig stalk steak stem stick strip
    tender tenderloin thigh tip wedge white wing yolk
    """
)

# Words of an ingredient's name that do not tell it from another food.
DESCRIPTIONS = word_set(
    """
    a an the of and or with in for to your any plus more other all purpose all-purpose active baby big
    boiled boiling boneless bought canned chopped coarse cold condensed cooked cooking crisp crushed dark
    diced double dried dry extra extra-large extra-virgin fat fat-free fine firm free free-range fresh
    freshly frozen full full-fat good good-quality granulated grated ground half hard hard-boiled heavy hot
    instant italian jumbo kosher large lean light long low low-fat low-sodium medium melted mild minced mixed
    natural new old organic packed peeled pitted plain prepared pure quality raw reduced reduced-fat ripe
    roasted rolled salted self-raising self-rising semi-skimmed shredded single skinless skimmed sliced small
    smoked soft sour split strong super sweetened table tiny toasted unbleached unsalted unsweetened virgin
    very warm whipping whole
    """
)

# What a general word in the steps may stand for.
KINDS: dict[str, frozenset[str]] = {
    "meat": word_set("beef pork lamb veal venison chicken turkey duck mutton sirloin sausage bacon ham steak"),
    "poultry": word_set("chicken turkey duck goose hen"),
    "fish": word_set("cod haddock salmon trout tuna mackerel halibut tilapia sole snapper bass"),
    "seafood": word_set("shrimp prawn crab lobster clam mussel oyster scallop squid cod salmon tuna"),
    "cheese": word_set(
        "cheddar mozzarella parmesan feta ricotta gruyere mascarpone brie gouda pecorino provolone gorgonzola"
    ),
    "pasta": word_set("spaghetti macaroni penne linguine fettuccine rigatoni fusilli lasagna farfalle noodle"),
    "nut": word_set("almond walnut pecan hazelnut pistachio cashew peanut macadamia"),
    "berry": word_set("blueberry strawberry raspberry blackberry cranberry"),
    "herb": word_set("basil parsley cilantro dill thyme rosemary oregano tarragon mint sage chive marjoram"),
    "vegetable": word_set(
        "carrot celery onion potato broccoli cauliflower zucchini cabbage pea bean spinach leek turnip parsnip"
    ),
}

ACTION_VERBS = word_set(
    """
    add adjust arrange assemble bake baste beat blanch blend boil braise bread break bring broil brown brush
    caramelize carve chill chop coat combine cook cool core cover cream crimp crush cube cut decorate dice
    dip discard dissolve divide drain dredge drizzle drop dry dust empty fill finish flatten flip fold form
    freeze fry garnish glaze grate grease grill grind halve heat incorporate knead ladle layer leave let line
    lower make marinate mash measure melt microwave mince mix moisten mould pack parboil pat peel pick pipe
    pit place poach pound pour preheat prepare press prick process puree put raise reduce refrigerate reheat
    remove repeat rest return reserve rinse roast roll rub saute sauté scald scatter score scoop scrape
    scrub sear season separate serve set shake shape shred shell sift simmer skim skin slice slide smooth
    soak soften spoon spray spread sprinkle squeeze stand steam steep stew stir store strain stuff taste
    thicken thin throw tie tilt toast top toss transfer trim turn unmold use warm wash whip whisk wipe work
    wrap zest
    """
)
