"""The kinds of dish among the sample recipes: what goes into each, what it is called and how it is made."""

from __future__ import annotations

from recipe_exp.data.sample.grammar import Dish, Slot

_MEAT = ("chicken", "beef", "pork", "lamb", "turkey")
_CURED = ("ham", "bacon", "sausages")
_FISH = ("salmon", "cod", "shrimp", "tuna")
_BEANS = ("lentils", "chickpeas", "black beans", "white beans")
_PASTA = ("spaghetti", "penne", "macaroni", "linguine")
_GRAIN = ("rice", "quinoa", "couscous", "barley")
_ROOTS = ("potatoes", "carrots", "parsnips", "squash", "beets")
_FIRM = ("carrots", "celery", "cabbage", "broccoli", "cauliflower")
_TENDER = ("zucchini", "eggplant", "peppers", "mushrooms", "asparagus", "spinach", "kale", "tomatoes")
_VEGETABLES = (*_FIRM, *_TENDER)
_RAW = ("carrots", "celery", "cabbage", "peppers", "radishes", "spinach", "tomatoes", "cucumber", "avocado")
_SMALL = Slot(("corn", "peas"), 0, 1)
_BULBS = ("onion", "leeks", "shallots", "garlic")
_HERBS = ("basil", "parsley", "cilantro", "dill", "mint", "thyme", "rosemary", "sage", "oregano")
_SPICES = ("cumin", "paprika", "turmeric", "curry powder", "chili powder")
_SWEET_SPICES = ("cinnamon", "nutmeg", "vanilla")
_CHEESE = ("cheddar", "parmesan", "mozzarella", "feta", "ricotta")
_BERRIES = ("blueberries", "raspberries", "strawberries", "cherries")
_FRUIT = ("apples", "pears", "peaches", "bananas", *_BERRIES, "mango")
_DRIED = ("raisins", "dates", "cranberries", "walnuts", "almonds", "pecans", "chocolate")
_SALT = Slot(("salt",), 0, 1)
_FAT = Slot(("butter", "olive oil"), amounts=("1 tablespoon", "2 tablespoons"))
_BAKING_BUTTER = Slot(("butter",), amounts=("1/4 cup", "1/2 cup"))

DISHES: tuple[Dish, ...] = (
    Dish(
        parts={
            "main": Slot((*_MEAT, *_BEANS, *_GRAIN)),
            "vegetable": Slot(_VEGETABLES, 1, 2),
            "small": _SMALL,
            "bulb": Slot(_BULBS),
            "broth": Slot(("broth",), amounts=("4 cups", "6 cups")),
            "herb": Slot(_HERBS),
            "salt": _SALT,
        },
        titles=("{main+vegetable+small} Soup", "{main+vegetable} Soup with {herb}"),
        steps=(
            ("Chop the {vegetable+bulb}.", "Clean and chop the {vegetable+bulb}."),
            ("Bring the {broth} to a boil in a large pot.",),
            ("Add the {main+vegetable+small+bulb} and simmer for {simmer} minutes.",),
            ("Stir in the {herb+salt} and serve hot.", "Season with the {herb+salt} and serve."),
        ),
        numbers={"simmer": ("20", "25", "30")},
    ),
    Dish(
        parts={
            "meat": Slot(_MEAT),
            "root": Slot(_ROOTS, 1, 2),
            "bulb": Slot(_BULBS),
            "fat": _FAT,
            "broth": Slot(("broth",), amounts=("2 cups", "3 cups")),
            "herb": Slot(_HERBS),
            "salt": _SALT,
        },
        titles=("{meat+root} Stew", "{meat+root} Stew with {herb}"),
        steps=(
            ("Cut the {meat+root} into cubes.", "Peel and cube the {root}, then cut the {meat} into cubes."),
            ("Heat the {fat} in a large pot and brown the {meat} with the {bulb}.",),
            ("Add the {root+broth+herb} and bring to a boil.",),
            ("Cover and simmer for {simmer} minutes.",),
            ("Season with the {salt} and serve.",),
        ),
        numbers={"simmer": ("45", "60", "90")},
    ),
    Dish(
        parts={
            "main": Slot((*_MEAT, "shrimp", "tofu", "chickpeas", "lentils")),
            "vegetable": Slot(_VEGETABLES, 1, 2),
            "bulb": Slot((*_BULBS, "ginger")),
            "milk": Slot(("coconut milk", "yogurt")),
            "fat": _FAT,
            "spice": Slot(_SPICES),
            "salt": _SALT,
        },
        titles=("{main+vegetable} Curry", "{bulb} {main} Curry with {vegetable}"),
        steps=(
            ("Chop the {vegetable+bulb}.",),
            ("Heat the {fat} in a pan and fry the {bulb+spice} for 2 minutes.",),
            ("Add the {main+vegetable} and cook for {cook} minutes.",),
            ("Pour in the {milk} and simmer for {simmer} minutes.",),
            ("Season with the {salt} and serve.",),
        ),
        numbers={"cook": ("5", "8"), "simmer": ("15", "20")},
    ),
    Dish(
        parts={
            "main": Slot((*_MEAT, "shrimp", "tofu")),
            "vegetable": Slot(_VEGETABLES, 1, 3),
            "bulb": Slot(("garlic", "ginger", "onion")),
            "oil": Slot(("sesame oil",)),
            "sauce": Slot(("soy sauce",)),
            "sour": Slot(("lime juice", "vinegar"), 0, 1),
        },
        titles=("{main+vegetable} Stir-Fry", "{bulb} {main} Stir-Fry with {vegetable}"),
        steps=(
            ("Slice the {main+vegetable+bulb}.", "Cut the {main+vegetable+bulb} into thin strips."),
            ("Heat the {oil} in a large pan and fry the {main} for {fry} minutes.",),
            ("Add the {vegetable+bulb} and stir for 3 minutes.",),
            ("Pour in the {sauce+sour}, toss and serve hot.", "Stir in the {sauce+sour} and serve."),
        ),
        numbers={"fry": ("4", "5", "6")},
    ),
    Dish(
        parts={
            "pasta": Slot(_PASTA),
            "main": Slot((*_FISH, *_CURED, "chicken"), 0, 1),
            "vegetable": Slot(_VEGETABLES, 1, 2),
            "bulb": Slot(("garlic", "onion", "shallots")),
            "fat": _FAT,
            "cheese": Slot(_CHEESE),
            "herb": Slot(("basil", "parsley", "oregano", "sage"), 0, 1),
        },
        titles=("{pasta} with {main+vegetable}", "{main+vegetable} {pasta} with {cheese}"),
        steps=(
            ("Boil the {pasta} for {boil} minutes and drain.",),
            ("Heat the {fat} in a pan and cook the {bulb} for 2 minutes.",),
            ("Add the {main+vegetable} and cook for {cook} minutes.",),
            ("Toss with the {pasta+cheese+herb} and serve.", "Stir in the {pasta+cheese+herb} and serve hot."),
        ),
        numbers={"boil": ("8", "10"), "cook": ("6", "8", "10")},
    ),
    Dish(
        parts={
            "main": Slot(("chicken", "ham", "tuna", "shrimp", "chickpeas", "white beans", "rice", "quinoa")),
            "raw": Slot(_RAW, 2, 3),
            "cheese": Slot(("feta", "mozzarella"), 0, 1),
            "oil": Slot(("olive oil",)),
            "sour": Slot(("lemon juice", "lime juice", "vinegar")),
            "herb": Slot(("basil", "parsley", "cilantro", "dill", "mint")),
        },
        titles=("{main+raw} Salad", "{herb} {main} Salad with {raw}"),
        steps=(
            ("Cook the {main} and let cool.",),
            ("Chop the {raw+herb}.", "Wash and chop the {raw+herb}."),
            ("Whisk the {oil+sour} in a small bowl.",),
            ("Toss the {main+raw+herb} with the dressing in a large bowl.",),
            ("Top with the {cheese} and serve.",),
        ),
    ),
    Dish(
        parts={
            "main": Slot((*_CURED, "turkey", "tuna", "white beans", "black beans"), 0, 1),
            "vegetable": Slot((*_ROOTS, "broccoli", "cauliflower", *_TENDER), 1, 2),
            "bulb": Slot(("onion", "leeks", "shallots")),
            "eggs": Slot(("eggs",), 0, 1),
            "cream": Slot(("cream", "milk")),
            "cheese": Slot(("cheddar", "parmesan", "mozzarella")),
            "herb": Slot(("thyme", "rosemary", "sage", "parsley")),
        },
        titles=("{main+vegetable} Bake", "{main+vegetable} Bake with {cheese}"),
        steps=(
            ("Heat the oven to {degrees} degrees.",),
            ("Slice the {vegetable+bulb} and layer in a baking dish.",),
            ("Scatter the {main} on top.",),
            ("Whisk the {eggs+cream+herb} and pour over the vegetables.",),
            ("Top with the {cheese} and bake for {bake} minutes.",),
        ),
        numbers={"degrees": ("375", "400"), "bake": ("30", "35", "40")},
    ),
    Dish(
        parts={
            "main": Slot((*_MEAT, "salmon", "cod", "sausages")),
            "root": Slot((*_ROOTS, "cauliflower", "broccoli"), 1, 2),
            "bulb": Slot(_BULBS, 0, 1),
            "oil": Slot(("olive oil",)),
            "sour": Slot(("lemon juice", "mustard"), 0, 1),
            "herb": Slot(("thyme", "rosemary", "sage", "oregano")),
            "salt": _SALT,
        },
        titles=("Roast {main+root}", "{herb} Roast {main} with {root}"),
        steps=(
            ("Heat the oven to {degrees} degrees.",),
            ("Cut the {root+bulb} into large pieces.", "Wash and slice the {root+bulb}."),
            ("Toss the {root+bulb} with the {oil+herb+salt} on a baking sheet.",),
            ("Place the {main} on top.",),
            ("Roast for {roast} minutes.",),
            ("Drizzle with the {sour} and serve.",),
        ),
        numbers={"degrees": ("400", "425"), "roast": ("30", "35", "45")},
    ),
    Dish(
        parts={
            "main": Slot((*_CURED, "salmon", "shrimp"), 0, 1),
            "vegetable": Slot((*_TENDER, "potatoes"), 1, 2),
            "bulb": Slot(("onion", "shallots", "leeks")),
            "eggs": Slot(("eggs",), amounts=("3", "4", "6")),
            "milk": Slot(("milk", "cream"), 0, 1, ("1 tablespoon", "2 tablespoons")),
            "cheese": Slot(_CHEESE),
            "fat": _FAT,
        },
        titles=("{main+vegetable+cheese} Omelette", "{main+vegetable} Omelette with {cheese}"),
        steps=(
            ("Beat the {eggs+milk} in a bowl.", "Whisk the {eggs+milk} in a bowl."),
            ("Chop the {vegetable+bulb}.", "Slice the {vegetable+bulb}."),
            ("Heat the {fat} in a pan and cook the {main+vegetable+bulb} for {cook} minutes.",),
            ("Pour in the {eggs} and cook for 3 minutes.",),
            ("Top with the {cheese}, fold and serve.",),
        ),
        numbers={"cook": ("4", "5", "6")},
    ),
    Dish(
        parts={
            "grain": Slot(("rice", "quinoa", "barley")),
            "main": Slot((*_MEAT, *_BEANS), 0, 1),
            "vegetable": Slot(_VEGETABLES, 1, 2),
            "bulb": Slot(_BULBS),
            "broth": Slot(("broth",), amounts=("2 cups", "3 cups")),
            "fat": _FAT,
            "spice": Slot((*_SPICES, "thyme", "oregano")),
        },
        titles=("{main+vegetable} {grain} with {spice}", "{main+vegetable} {grain}"),
        steps=(
            ("Chop the {vegetable+bulb}.",),
            ("Heat the {fat} in a pot and cook the {main+bulb+spice} for {cook} minutes.",),
            ("Stir in the {grain+vegetable+broth}.", "Add the {grain+vegetable+broth} and stir."),
            ("Cover and simmer for {simmer} minutes.", "Cover and cook for {simmer} minutes."),
        ),
        numbers={"cook": ("4", "5", "6"), "simmer": ("20", "25", "30")},
    ),
    Dish(
        parts={
            "main": Slot(("chicken", "beef", "pork", "cod", "shrimp", "black beans", "tofu")),
            "tortillas": Slot(("tortillas",)),
            "raw": Slot(("cabbage", "peppers", "tomatoes", "radishes", "avocado", "lettuce", "mango"), 1, 2),
            "cheese": Slot(("cheddar", "feta"), 0, 1),
            "oil": Slot(("olive oil",)),
            "sour": Slot(("lime juice",)),
            "spice": Slot(("cumin", "paprika", "chili powder")),
        },
        titles=("{main} Tacos with {raw}", "{spice} {main+raw} Tacos"),
        steps=(
            ("Toss the {main} with the {sour+spice}.",),
            ("Heat the {oil} in a pan and cook the {main} for {cook} minutes.",),
            ("Chop the {raw}.", "Slice the {raw}."),
            ("Warm the {tortillas} for 2 minutes.",),
            ("Fill with the {main+raw+cheese} and serve.",),
        ),
        numbers={"cook": ("6", "8", "10")},
    ),
    Dish(
        parts={
            "bread": Slot(("bread",)),
            "main": Slot(("ham", "bacon", "chicken", "turkey", "tuna", "salmon")),
            "raw": Slot(("tomatoes", "cucumber", "avocado", "lettuce", "spinach", "radishes", "apples", "pears"), 1, 2),
            "cheese": Slot(_CHEESE),
            "spread": Slot(("mustard", "butter"), amounts=("1 tablespoon", "2 teaspoons")),
            "herb": Slot(("basil", "dill", "parsley"), 0, 1),
        },
        titles=("{main+raw} Sandwiches", "{cheese+main} Sandwiches with {raw}"),
        steps=(
            ("Toast the {bread} and cover with the {spread}.",),
            ("Slice the {raw}.", "Wash and slice the {raw}."),
            ("Layer the {main+raw+cheese+herb} on the {bread}.",),
            ("Press together, cut in half and serve.",),
        ),
    ),
    Dish(
        parts={
            "flour": Slot(("flour",)),
            "powder": Slot(("baking powder",)),
            "sugar": Slot(("sugar",)),
            "eggs": Slot(("eggs",), amounts=("2", "3")),
            "fruit": Slot((*_FRUIT, "carrots", "pumpkin"), 1, 2),
            "extra": Slot((*_DRIED, *_SWEET_SPICES)),
            "butter": _BAKING_BUTTER,
        },
        titles=("{fruit+extra} Cake", "{fruit} Cake with {extra}"),
        steps=(
            ("Heat the oven to 350 degrees and grease a cake pan.",),
            ("Beat the {butter+sugar} until fluffy, then beat in the {eggs}.",),
            ("Stir in the {flour+powder}.", "Mix in the {flour+powder}."),
            ("Fold in the {fruit+extra} and pour into the pan.",),
            ("Bake for {bake} minutes and let cool.",),
        ),
        numbers={"bake": ("35", "40", "45", "50")},
    ),
    Dish(
        parts={
            "flour": Slot(("flour",)),
            "oats": Slot(("oats", "cocoa", "cornmeal"), 0, 1),
            "sugar": Slot(("sugar",)),
            "eggs": Slot(("eggs",), amounts=("2", "3")),
            "extra": Slot(_DRIED, 1, 2),
            "butter": _BAKING_BUTTER,
            "spice": Slot(_SWEET_SPICES),
        },
        titles=("{oats+extra} Cookies", "{oats+extra} Cookies with {spice}"),
        steps=(
            ("Heat the oven to {degrees} degrees.",),
            ("Cream the {butter+sugar}, then beat in the {eggs}.", "Beat the {sugar+eggs+butter} until fluffy."),
            ("Stir in the {flour+oats+spice}.", "Mix in the {flour+oats+spice}."),
            ("Fold in the {extra} and drop by spoonfuls onto a baking sheet.",),
            ("Bake for {bake} minutes and let cool.",),
        ),
        numbers={"degrees": ("350", "375"), "bake": ("10", "12", "15")},
    ),
    Dish(
        parts={
            "flour": Slot(("flour",)),
            "grain": Slot(("oats", "cornmeal", "cocoa"), 0, 1),
            "powder": Slot(("baking powder",)),
            "sweet": Slot(("sugar", "honey"), amounts=("1/4 cup", "1/2 cup")),
            "eggs": Slot(("eggs",), amounts=("2", "3")),
            "milk": Slot(("milk", "yogurt")),
            "fruit": Slot((*_FRUIT, "pumpkin")),
            "extra": Slot((*_DRIED, *_SWEET_SPICES)),
        },
        titles=("{fruit+extra} Muffins", "{grain+fruit} Muffins with {extra}"),
        steps=(
            ("Heat the oven to {degrees} degrees and grease a muffin pan.",),
            ("Mix the {flour+grain+powder} in a bowl.",),
            ("Whisk the {sweet+eggs+milk}, then stir into the {flour}.",),
            ("Fold in the {fruit+extra} and fill the pan.",),
            ("Bake for {bake} minutes.",),
        ),
        numbers={"degrees": ("375", "400"), "bake": ("18", "20", "25")},
    ),
    Dish(
        parts={
            "flour": Slot(("flour",), amounts=("1 cup", "1 1/2 cups")),
            "eggs": Slot(("eggs",), amounts=("2", "3")),
            "milk": Slot(("milk", "yogurt"), amounts=("1 cup", "1 1/2 cups")),
            "fruit": Slot((*_FRUIT, "pumpkin"), 1, 2),
            "fat": _FAT,
            "spice": Slot((*_SWEET_SPICES, "salt"), 0, 1),
            "top": Slot(("honey", "walnuts", "pecans", "almonds", "chocolate")),
        },
        titles=("{fruit} Pancakes with {top}", "{spice} {fruit+top} Pancakes"),
        steps=(
            ("Whisk the {flour+eggs+milk+spice} in a bowl.",),
            ("Fold in the {fruit}.", "Stir in the {fruit}."),
            ("Heat the {fat} in a pan and pour in small rounds.",),
            ("Cook for {cook} minutes on each side.",),
            ("Top with the {top} and serve warm.",),
        ),
        numbers={"cook": ("2", "3")},
    ),
    Dish(
        parts={
            "oats": Slot(("oats",)),
            "flour": Slot(("flour",), 0, 1, ("1/2 cup", "1 cup")),
            "sweet": Slot(("sugar", "honey"), amounts=("1/4 cup", "1/2 cup")),
            "fruit": Slot((*_FRUIT, "cranberries"), 1, 2),
            "nuts": Slot(("walnuts", "almonds", "pecans")),
            "butter": _BAKING_BUTTER,
            "spice": Slot(_SWEET_SPICES),
        },
        titles=("{fruit+nuts} Crumble", "{spice} {fruit} Crumble with {nuts}"),
        steps=(
            ("Heat the oven to {degrees} degrees.",),
            ("Place the {fruit} in a baking dish.",),
            ("Mix the {flour+oats+sweet+nuts+butter+spice} with your fingers.",),
            ("Scatter over the {fruit} and bake for {bake} minutes.",),
        ),
        numbers={"degrees": ("350", "375"), "bake": ("35", "40", "45")},
    ),
    Dish(
        parts={
            "honey": Slot(("honey",), 0, 1),
            "milk": Slot(("milk", "yogurt", "coconut milk")),
            "fruit": Slot(_FRUIT, 1, 2),
            "extra": Slot(("oats", "cocoa", "dates", "almonds", "mint", "cinnamon", "ginger")),
        },
        titles=("{fruit+extra} Smoothie", "{fruit} Smoothie with {extra}"),
        steps=(
            ("Place the {fruit+extra} in a blender.",),
            ("Pour in the {milk} and blend for {blend} minutes.",),
            ("Sweeten with the {honey}.", "Stir in the {honey}."),
            ("Pour into tall glasses and serve cold.", "Serve cold."),
        ),
        numbers={"blend": ("2", "3")},
    ),
)
"""Every kind of dish; each step's alternatives together with the other steps use every slot."""
