"""Kitchen units: every spelling met in recipes and its one canonical, singular name."""

from __future__ import annotations

from functools import lru_cache

# Canonical name -> spellings besides its own and its regular plural. Longest spellings win, so
# `fluid ounce` is found before `ounce`.
_SPELLINGS: dict[str, tuple[str, ...]] = {
    # volume
    "teaspoon": ("tsp", "tsps", "tspn", "teasp", "teaspoonful", "teaspoonfuls", "teaspoonsful", "t"),
    "dessertspoon": ("dsp", "dstspn", "dessertspoonful", "dessertspoonfuls"),
    "tablespoon": (
        *("tbsp", "tbsps", "tbs", "tbl", "tblsp", "tbspn", "tblspn", "tb", "tablesp"),
        *("tablespoonful", "tablespoonfuls", "tablespoonsful"),
    ),
    "saltspoon": ("saltspoonful", "saltspoonfuls"),
    "cup": ("c", "cupful", "cupfuls", "cupsful"),
    "teacup": ("teacupful", "teacupfuls", "teacupsful"),
    "breakfast cup": ("breakfast cupful", "breakfastcup", "breakfastcupful", "breakfastcupfuls"),
    "fluid ounce": ("fl oz", "floz", "fl ounce", "fl ounces", "fluid oz"),
    "gill": (),
    "pint": ("pt", "pts"),
    "quart": ("qt", "qts"),
    "gallon": ("gal", "gals"),
    "millilitre": ("ml", "mls", "milliliter", "milliliters", "mil"),
    "centilitre": ("cl", "centiliter", "centiliters"),
    "decilitre": ("dl", "deciliter", "deciliters"),
    "litre": ("l", "lt", "ltr", "ltrs", "liter", "liters"),
    "wineglass": ("wineglassful", "wineglassfuls", "wineglassesful"),
    "glass": ("glassful", "glassfuls"),
    "shot": (),
    "jigger": (),
    "dash": (),
    "drop": (),
    "splash": (),
    "drizzle": (),
    "glug": (),
    "dollop": (),
    "squeeze": (),
    "spray": (),
    # mass
    "milligram": ("mg",),
    "gram": ("g", "gm", "gms", "gr", "grm", "grms", "gramme", "grammes"),
    "kilogram": ("kg", "kgs", "kilo", "kilos", "kilogramme", "kilogrammes"),
    "ounce": ("oz", "ozs", "onz"),
    "pound": ("lb", "lbs"),
    "drachm": ("dram", "drams"),
    # length, for pieces such as ginger
    "inch": ("in",),
    "centimetre": ("cm", "cms", "centimeter", "centimeters"),
    # amounts by hand
    "pinch": (),
    "handful": ("handfuls", "handsful"),
    "knob": (),
    "scoop": (),
    "twist": (),
    "grind": (),
    "thumb": (),
    "pat": (),
    # containers
    "can": (),
    "tin": (),
    "jar": (),
    "bottle": (),
    "bag": (),
    "box": (),
    "carton": (),
    "container": (),
    "packet": ("pkt", "pkts"),
    "package": ("pkg", "pkgs", "pack", "packs"),
    "sachet": (),
    "envelope": (),
    "tub": (),
    "tube": (),
    "pot": (),
    "punnet": (),
    # parts of a food
    "bulb": (),
    "bunch": (),
    "clove": (),
    "cube": (),
    "ear": (),
    "head": (),
    "leaf": (),
    "loaf": (),
    "lump": (),
    "piece": ("pc", "pcs"),
    "rack": (),
    "rasher": (),
    "recipe": (),
    "rib": (),
    "scraping": (),
    "sheet": (),
    "slice": (),
    "sprig": (),
    "stalk": (),
    "stem": (),
    "stick": (),
    "strip": (),
    "ball": (),
    "batch": (),
}

# Units that may stand behind the food: `2 garlic cloves`, `3 thyme sprigs`.
TRAILING_UNITS = frozenset({"clove", "sprig", "stalk", "rib", "head", "bunch", "bulb", "slice", "ear", "rasher"})

# Units that stand without a number: `pinch of salt`.
LOOSE_UNITS = frozenset(
    {
        *(
            "pinch",
            "handful",
            "dash",
            "drop",
            "splash",
            "drizzle",
            "knob",
            "sprig",
            "squeeze",
            "glug",
            "dollop",
        ),
        *("twist", "bunch", "slice", "grind", "pat", "spray", "scraping", "piece", "batch"),
    }
)

# Units that are themselves foods or parts of one when no name follows: `2 tsp cloves`, `4 cloves, crushed`.
FOOD_UNITS = frozenset({"clove", "leaf", "ear", "head", "rib", "stick", "stalk", "stem", "ball", "loaf", "cube"})

# Units that name a container or a part and may follow a weighed amount: `400g tin tomatoes`.
COUNTED_UNITS = frozenset(
    {
        *("can", "tin", "jar", "bottle", "bag", "box", "carton", "container", "packet", "package", "sachet"),
        *(
            "envelope",
            "tub",
            "tube",
            "pot",
            "punnet",
            "bunch",
            "piece",
            "head",
            "slice",
            "stick",
            "sheet",
            "loaf",
        ),
        *("knob", "ball", "bulb", "rack", "cube", "strip"),
    }
)


def _plural(word: str) -> str:
    if word in ("leaf", "loaf"):
        return word[:-1] + "ves"
    return word + ("es" if word.endswith(("s", "sh", "ch", "x")) else "s")


def _index() -> dict[str, str]:
    index = {}
    for name, spellings in _SPELLINGS.items():
        for spelling in (name, _plural(name), *spellings):
            index[spelling] = name
    return index


UNIT_SPELLINGS: dict[str, str] = _index()


# The words that a unit of two words can begin with.
FIRST_OF_TWO = frozenset(spelling.partition(" ")[0] for spelling in UNIT_SPELLINGS if " " in spelling)


@lru_cache(maxsize=65536)
def canonical_unit(text: str) -> str | None:
    """Return the canonical name of a kitchen unit (`Tbsps.` is `tablespoon`), or None for any other text.

    Case is ignored except for the lone letter: `T` is a tablespoon, `t` a teaspoon.
    """
    text = " ".join(text.split()).rstrip(".").replace(". ", " ")
    if text == "T":
        return "tablespoon"
    return UNIT_SPELLINGS.get(text.casefold())
