"""What the sample recipes are made of: foods with fitting amounts, in the one order every recipe lists them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Food:
    """One food.

    Attributes:
        name: as ingredient lines and steps write it; the same form for every amount.
        title: as titles write it.
        amounts: the amounts a recipe may ask for, such as `1 1/2 cups`.
    """

    name: str
    title: str
    amounts: tuple[str, ...]


# A food's place in this table is its place in every recipe: a small network learns to copy a list whose order
# never changes long before it learns to copy one that does.
_TABLE = """
chicken         | Chicken       | 1 pound; 2 pounds; 1 1/2 pounds
beef            | Beef          | 1 pound; 2 pounds; 1 1/2 pounds
pork            | Pork          | 1 pound; 2 pounds; 1 1/2 pounds
lamb            | Lamb          | 1 pound; 2 pounds; 1 1/2 pounds
turkey          | Turkey        | 1 pound; 2 pounds; 1 1/2 pounds
ham             | Ham           | 1 cup; 1/2 pound
bacon           | Bacon         | 4 slices; 6 slices
sausages        | Sausage       | 4; 6
salmon          | Salmon        | 1 pound; 1 1/2 pounds
cod             | Cod           | 1 pound; 1 1/2 pounds
shrimp          | Shrimp        | 1 pound; 1/2 pound
tuna            | Tuna          | 1 can; 2 cans
tofu            | Tofu          | 1 pound; 1/2 pound
lentils         | Lentil        | 1 cup; 1 1/2 cups
chickpeas       | Chickpea      | 1 can; 2 cups
black beans     | Black Bean    | 1 can; 2 cups
white beans     | White Bean    | 1 can; 2 cups

spaghetti       | Spaghetti     | 8 ounces; 12 ounces
penne           | Penne         | 8 ounces; 12 ounces
macaroni        | Macaroni      | 8 ounces; 2 cups
linguine        | Linguine      | 8 ounces; 12 ounces
rice            | Rice          | 1 cup; 1 1/2 cups; 2 cups
quinoa          | Quinoa        | 1 cup; 1 1/2 cups
couscous        | Couscous      | 1 cup; 1 1/2 cups
barley          | Barley        | 1 cup; 3/4 cup
tortillas       | Tortilla      | 6; 8
bread           | Bread         | 4 slices; 8 slices

potatoes        | Potato        | 3; 4; 6
carrots         | Carrot        | 2; 3; 4
celery          | Celery        | 2 stalks; 3 stalks
parsnips        | Parsnip       | 2; 3
cabbage         | Cabbage       | 1/2 head; 1 small head
broccoli        | Broccoli      | 1 head; 2 cups; 3 cups
cauliflower     | Cauliflower   | 1 head; 2 cups
zucchini        | Zucchini      | 1; 2
eggplant        | Eggplant      | 1; 1 large
squash          | Squash        | 1; 2 cups
peppers         | Pepper        | 2; 3
mushrooms       | Mushroom      | 1 cup; 2 cups; 8 ounces
asparagus       | Asparagus     | 1 bunch; 1/2 pound
corn            | Corn          | 1 cup; 2 cups; 1 can
peas            | Pea           | 1 cup; 1/2 cup
spinach         | Spinach       | 2 cups; 3 cups; 1 bunch
kale            | Kale          | 2 cups; 1 bunch
tomatoes        | Tomato        | 2; 3; 4
cucumber        | Cucumber      | 1; 1/2
radishes        | Radish        | 4; 6
avocado         | Avocado       | 1; 1 large
beets           | Beet          | 2; 3
lettuce         | Lettuce       | 1 head; 4 cups
onion           | Onion         | 1; 1 small; 1 large
leeks           | Leek          | 2; 3
shallots        | Shallot       | 2; 3
garlic          | Garlic        | 2 cloves; 3 cloves; 4 cloves
ginger          | Ginger        | 1 tablespoon; 2 teaspoons

flour           | Flour         | 1 cup; 1 1/2 cups; 2 cups
cornmeal        | Cornmeal      | 1/2 cup; 1 cup
oats            | Oat           | 1/2 cup; 1 cup
cocoa           | Cocoa         | 1/4 cup; 1/2 cup
baking powder   | Baking Powder | 1 teaspoon; 2 teaspoons
sugar           | Sugar         | 1/2 cup; 3/4 cup; 1 cup
honey           | Honey         | 2 tablespoons; 1/4 cup
eggs            | Egg           | 2; 3; 4
milk            | Milk          | 1/2 cup; 3/4 cup; 1 cup
yogurt          | Yogurt        | 1/2 cup; 1 cup
cream           | Cream         | 1/2 cup; 1 cup
coconut milk    | Coconut Milk  | 1 can; 1 cup

apples          | Apple         | 2; 3; 4
pears           | Pear          | 2; 3
peaches         | Peach         | 3; 4
bananas         | Banana        | 2; 3
blueberries     | Blueberry     | 1 cup; 1 1/2 cups
raspberries     | Raspberry     | 1 cup; 1 1/2 cups
strawberries    | Strawberry    | 1 cup; 2 cups
cherries        | Cherry        | 1 cup; 2 cups
mango           | Mango         | 1; 1 large
pumpkin         | Pumpkin       | 1 cup; 1 can
raisins         | Raisin        | 1/4 cup; 1/2 cup
dates           | Date          | 1/4 cup; 1/2 cup
cranberries     | Cranberry     | 1/2 cup; 1 cup
walnuts         | Walnut        | 1/4 cup; 1/2 cup
almonds         | Almond        | 1/4 cup; 1/2 cup
pecans          | Pecan         | 1/4 cup; 1/2 cup
chocolate       | Chocolate     | 1/2 cup; 1 cup; 4 ounces

cheddar         | Cheddar       | 1/2 cup; 1 cup
parmesan        | Parmesan      | 1/4 cup; 1/2 cup
mozzarella      | Mozzarella    | 1/2 cup; 1 cup
feta            | Feta          | 1/4 cup; 1/2 cup
ricotta         | Ricotta       | 1/2 cup; 1 cup
butter          | Butter        | 1 tablespoon; 2 tablespoons; 1/4 cup
olive oil       | Olive Oil     | 1 tablespoon; 2 tablespoons
sesame oil      | Sesame Oil    | 1 tablespoon; 2 teaspoons
broth           | Broth         | 3 cups; 4 cups; 6 cups
soy sauce       | Soy Sauce     | 2 tablespoons; 3 tablespoons
vinegar         | Vinegar       | 1 tablespoon; 2 tablespoons
lemon juice     | Lemon         | 1 tablespoon; 2 tablespoons
lime juice      | Lime          | 1 tablespoon; 2 tablespoons
mustard         | Mustard       | 1 teaspoon; 1 tablespoon

basil           | Basil         | 1/4 cup; 1 bunch
parsley         | Parsley       | 1/4 cup; 1 bunch
cilantro        | Cilantro      | 1/4 cup; 1 bunch
dill            | Dill          | 2 tablespoons; 1/4 cup
mint            | Mint          | 2 tablespoons; 1/4 cup
thyme           | Thyme         | 1 teaspoon; 2 sprigs
rosemary        | Rosemary      | 1 teaspoon; 2 sprigs
sage            | Sage          | 1 teaspoon; 6 leaves
oregano         | Oregano       | 1 teaspoon; 1/2 teaspoon
cumin           | Cumin         | 1 teaspoon; 1/2 teaspoon
paprika         | Paprika       | 1 teaspoon; 1/2 teaspoon
turmeric        | Turmeric      | 1 teaspoon; 1/2 teaspoon
curry powder    | Curry         | 1 tablespoon; 2 teaspoons
chili powder    | Chili         | 1 teaspoon; 2 teaspoons
cinnamon        | Cinnamon      | 1 teaspoon; 1/2 teaspoon
nutmeg          | Nutmeg        | 1/4 teaspoon; 1 pinch
vanilla         | Vanilla       | 1 teaspoon; 2 teaspoons
salt            | Salt          | 1 pinch; 1/2 teaspoon
"""


def _read_table() -> dict[str, Food]:
    rows = [[cell.strip() for cell in line.split("|")] for line in _TABLE.splitlines() if line]
    return {name: Food(name, title, tuple(amounts.split("; "))) for name, title, amounts in rows}


PANTRY: dict[str, Food] = _read_table()
"""Every food by its name, in the order in which recipes list them."""
