"""The words that surround a food's name in an ingredient line, and the singular of an English noun."""

from __future__ import annotations

from functools import lru_cache


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _pairs(text: str) -> dict[str, str]:
    """Read `word=value; word=value; ...`."""
    pairs = (pair.split("=") for pair in text.split(";"))
    return {" ".join(word.split()): value.strip() for word, value in pairs}


NUMBER_WORDS = _pairs(
    """
    a=1; an=1; one=1; two=2; three=3; four=4; five=5; six=6; seven=7; eight=8; nine=9; ten=10;
    eleven=11; twelve=12; fifteen=15; sixteen=16; twenty=20; dozen=12; half=1/2; quarter=1/4;
    a dozen=12; half a=1/2; half an=1/2; a half=1/2; one half=1/2; one-half=1/2; a quarter=1/4;
    one-quarter=1/4; one-third=1/3; half a dozen=6; two-thirds=2/3; three-quarters=3/4;
    three-fourths=3/4; one-fourth=1/4; a couple=2; a couple of=2; couple of=2
    """
)

SIZES = _words(
    """
    average big bite-size bite-sized extra-large fist-sized good-sized jumbo large large-sized lg md med
    medium medium-large medium-size medium-sized medium-small miniature sm small small-sized thumb-sized
    tiny
    """
)

# Words that may stand between a quantity and its unit: `2 heaped tablespoons`, `1 scant cup`.
UNIT_QUALIFIERS = SIZES | _words(
    """
    about approx approximately decent fat fluid fresh full generous good healthy heaped heaping hefty
    imperial level long more nice packed plain plump rounded scant short square thick thin us very whole
    wide
    """
)

# Adverbs of preparation; those added below are adjectives of the food unless a preparation follows.
ALWAYS_ADVERBS = _words(
    """
    carefully coarsely crossways crosswise diagonally evenly finely firmly freshly gently lengthways
    lengthwise lightly loosely neatly newly partially roughly slightly thickly thinly tightly
    """
)
ADVERBS = ALWAYS_ADVERBS | {"very", "well", "fine", "rough"}

PREPARATIONS = _words(
    """
    beaten boned broken bruised chiffonade chilled chopped cleaned cooled cored cracked crumbled crushed
    cubed cut defrosted deseeded deveined diced dissolved divided drained fine-chopped flaked grated halved
    hand-torn hard-boiled heated hulled husked juiced julienne julienned lukewarm mashed melted minced
    packed peeled picked pounded pre-cooked pressed pureed puréed quartered rinsed rough-chopped sautéed
    scalded scrubbed seeded separated shaved shelled shredded shucked sieved sifted skinned sliced slivered
    smashed snipped soaked soft-boiled softened split squeezed stemmed thawed toasted torn trimmed unpeeled
    warmed washed whisked zested
    """
)

# Part of a food's name on their own (`ground cumin`), preparations behind an adverb (`freshly ground`).
STATES_AFTER_ADVERB = _words(
    """
    boiled brewed cooked ground pressed roasted scraped squeezed
    """
)

# Adjectives that never name a food alone: behind `ripe, red tomatoes` the comma does not end the name.
ADJECTIVES = _words(
    """
    black bone-in boneless brown cold cooked crisp dark dried dry dry-roasted firm free-range fresh frozen
    full-fat good-quality green high-fat hot lean low-fat organic plain raw ready-made red ripe salted
    seedless skin-on skinless soft sweet thick-cut unsalted warm white whole yellow young
    """
)

# Words that open a remark about the food rather than naming it.
COMMENT_WORDS = _words(
    """
    about according and any as at available bones bought but depending divided e.g. each enough for from i
    i.e. ideally if in including kept leaves left lengthways lengthwise like more not note on only optional
    or plus preferably reserved roughly see seeds skin stalks stems such then thick thin to until we weighed
    well with without you your
    """
)

# Every word that the remarks of `ingredient_line` can begin with, `i` and `e` for `i.e.` and `e.g.`.
REMARK_OPENERS = _words(
    """
    about and as at cut depending dissolved divided e each for from homemade i if in optional or plus preferably room
    soaked store such then to weighing with
    """
)

_IRREGULAR_SINGULARS = _pairs(
    """
    leaves=leaf; loaves=loaf; halves=half; knives=knife; calves=calf; geese=goose; feet=foot;
    anchovies=anchovy; cookies=cookie; brownies=brownie; pies=pie; chilies=chili; chillies=chilli;
    chiles=chile; olives=olive; cloves=clove; chives=chive; endives=endive; radishes=radish;
    veggies=veggie; smoothies=smoothie; cherries=cherry; potatoes=potato; tomatoes=tomato;
    mangoes=mango; quiches=quiche; brioches=brioche; avocadoes=avocado
    """
)
_UNCHANGED_ENDINGS = ("ss", "us", "is", "as")
_UNCHANGED = _words(
    """
    asparagus brussels couscous greens hummus molasses oats swiss
    """
)
_PLURAL_IN_AS = _words(
    """
    bananas chias papayas peas pizzas seas sodas teas tortillas
    """
)


@lru_cache(maxsize=65536)
def singular(word: str) -> str:
    """Return the singular of a lower-case English noun; words that are no plural stay as they are.

    Written for the vocabulary of kitchens: `leaves` is `leaf`, `tomatoes` `tomato`, `molasses` itself.
    """
    if word in _IRREGULAR_SINGULARS:
        return _IRREGULAR_SINGULARS[word]
    if word in _PLURAL_IN_AS:
        return word[:-1]
    if len(word) < 4 or not word.endswith("s") or word in _UNCHANGED or word.endswith(_UNCHANGED_ENDINGS):
        return word
    if word.endswith("ies"):
        return word[:-3] + "y"
    if word.endswith(("shes", "ches", "xes", "sses", "oes")):
        return word[:-2]
    return word[:-1]
