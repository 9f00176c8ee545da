"""Small tables of everyday facts: opposites, colours, calendar, plurals, animals, words to spell, numbers."""

from __future__ import annotations

OPPOSITES = """
    hot cold|big small|up down|left right|day night|black white|good bad|fast slow|old new|happy sad|
    rich poor|light dark|open closed|hard soft|wet dry|full empty|strong weak|long short|high low|near far|
    early late|first last|true false|right wrong|inside outside|above below|before after|begin end|
    buy sell|push pull|win lose|love hate|war peace|life death|friend enemy|clean dirty|thick thin|
    deep shallow|wide narrow|loud quiet|heavy light|easy difficult|cheap expensive|young old|smooth rough|
    sharp blunt|sweet sour|safe dangerous|asleep awake|alive dead|always never|all none|more less|many few|
    north south|east west|summer winter|come go|give take|laugh cry|question answer|success failure|
    brave cowardly|polite rude|front back|top bottom|in out|on off|yes no|entrance exit|
    arrive leave|remember forget|tall short|beginning end|boy girl|man woman|king queen|
    brother sister|father mother|teacher student|hero villain"""

COLOURS = """
    the sky=blue|grass=green|snow=white|blood=red|a banana=yellow|coal=black|an orange=orange|milk=white|
    a lemon=yellow|a tomato=red|a carrot=orange|chocolate=brown|a strawberry=red|a cucumber=green|
    the sun=yellow|a polar bear=white|a flamingo=pink|a frog=green|an elephant=grey|a raven=black|a ruby=red|
    an emerald=green|a sapphire=blue|gold=yellow|silver=grey|a violet=purple|the sea=blue|a cherry=red|
    a pumpkin=orange|an aubergine=purple|a lime=green|a swan=white|ash=grey|a fire engine=red|salt=white|
    rice=white|coffee=brown|spinach=green|a lobster=red|soot=black"""

PLURALS = """
    child=children|mouse=mice|man=men|woman=women|foot=feet|tooth=teeth|goose=geese|ox=oxen|person=people|
    sheep=sheep|fish=fish|deer=deer|leaf=leaves|knife=knives|wife=wives|life=lives|wolf=wolves|half=halves|
    shelf=shelves|loaf=loaves|thief=thieves|calf=calves|box=boxes|fox=foxes|bus=buses|glass=glasses|dish=dishes|
    church=churches|watch=watches|brush=brushes|class=classes|kiss=kisses|potato=potatoes|tomato=tomatoes|
    hero=heroes|echo=echoes|photo=photos|piano=pianos|city=cities|baby=babies|lady=ladies|story=stories|
    party=parties|country=countries|family=families|fly=flies|penny=pennies|army=armies|berry=berries|
    day=days|boy=boys|key=keys|toy=toys|monkey=monkeys|cat=cats|dog=dogs|house=houses|tree=trees|book=books|
    car=cars|horse=horses|apple=apples|table=tables|chair=chairs|window=windows|door=doors|river=rivers|
    king=kings|queen=queens|ship=ships|stone=stones|flower=flowers|bird=birds|star=stars|hand=hands|eye=eyes|
    cow=cows|pig=pigs|friend=friends|letter=letters|cactus=cacti|crisis=crises|louse=lice|roof=roofs|
    peach=peaches|wish=wishes|witch=witches|bench=benches|scarf=scarves|elf=elves|spy=spies|volcano=volcanoes"""

YOUNG = """
    dog=a puppy|cat=a kitten|cow=a calf|horse=a foal|sheep=a lamb|pig=a piglet|goat=a kid|hen=a chick|
    duck=a duckling|goose=a gosling|lion=a cub|bear=a cub|deer=a fawn|frog=a tadpole|kangaroo=a joey|
    swan=a cygnet|owl=an owlet|eagle=an eaglet|fox=a cub|wolf=a pup|seal=a pup|rabbit=a kit|hare=a leveret"""

LEGS = """
    dog=4|cat=4|horse=4|cow=4|spider=8|ant=6|bee=6|bird=2|chicken=2|fly=6|butterfly=6|octopus=8|
    crab=10|snake=0|fish=0|person=2|frog=4|duck=2|elephant=4|beetle=6|scorpion=8|lion=4|worm=0|mouse=4"""

WORDS = """
    cat dog house tree book water apple bread chair table window door river school friend letter garden
    flower bird star moon sun light night day green yellow orange purple black white brown king queen
    horse sheep mouse tiger lion bear rabbit monkey snake spider finger hand foot head heart mother
    father sister brother family summer winter spring autumn rain snow wind storm cloud music paper
    money city country island bridge train boat clock cheese sugar coffee lemon banana happy knife"""

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]
MONTH_LENGTHS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
ORDINALS = [
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
]
NUMBERS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]
NAMES = [
    "Anna",
    "Ben",
    "Clara",
    "David",
    "Emma",
    "Frank",
    "Grace",
    "Henry",
    "Ida",
    "Jack",
    "Kate",
    "Leo",
    "Mary",
    "Nina",
    "Oscar",
    "Paul",
    "Rosa",
    "Sam",
    "Tom",
    "Vera",
    "Will",
    "Alice",
    "Bob",
    "Carol",
    "Dan",
    "Eva",
    "Fred",
    "George",
    "Helen",
    "Ivan",
    "Julia",
    "Karl",
    "Laura",
    "Max",
    "Nora",
    "Olga",
    "Peter",
    "Ruth",
    "Simon",
    "Tina",
    "Victor",
    "Wendy",
    "Adam",
    "Bella",
    "Chris",
    "Diana",
    "Eric",
    "Fiona",
    "Greg",
    "Hanna",
    "Ian",
    "Jane",
    "Ken",
    "Lucy",
    "Mark",
    "Nick",
    "Olivia",
]


def pairs(table: str, left: str, right: str, separator: str = "=") -> list[dict[str, str]]:
    """Read a ``left=right|…`` table into facts."""
    entries = (entry.strip() for entry in table.split("|"))
    return [dict(zip((left, right), entry.split(separator, 1), strict=True)) for entry in entries]


def opposites() -> list[dict[str, str]]:
    """Both directions of each pair, a word's first meaning only: one question has one answer."""
    found: dict[str, str] = {}
    both = pairs(OPPOSITES, "word", "opposite", " ")
    for fact in both:
        found.setdefault(fact["word"], fact["opposite"])
    for fact in both:
        found.setdefault(fact["opposite"], fact["word"])
    return [{"word": word, "opposite": opposite} for word, opposite in found.items()]


def spellings() -> list[dict[str, str]]:
    """Words with their letters: ``c-a-t``."""
    return [
        {"word": word, "letters": "-".join(word), "Word": word.capitalize()}
        for word in dict.fromkeys(WORDS.split())
    ]


def neighbours(cycle: list[str], item: str) -> list[dict[str, str]]:
    """Each member of a cycle with the one before and the one after it."""
    return [
        {item: name, "before": cycle[index - 1], "after": cycle[(index + 1) % len(cycle)]}
        for index, name in enumerate(cycle)
    ]


def months() -> list[dict[str, str]]:
    """Each month with its place in the year and its length."""
    return [
        {"month": month, "ordinal": ORDINALS[index], "days": str(MONTH_LENGTHS[index])}
        for index, month in enumerate(MONTHS)
    ]


def spelled(number: int) -> str:
    """A number in words as far as the table goes, else in digits."""
    return NUMBERS[number] if number < len(NUMBERS) else str(number)


def sums(sign: str) -> list[dict[str, str]]:
    """All simple sums of one kind: ``+`` and ``-`` to 12, ``*`` to 10 times 10, ``/`` the other way round."""
    top = 11 if sign in "*/" else 13
    results = {"+": int.__add__, "-": int.__sub__, "*": int.__mul__}
    facts = []
    for a in range(top):
        for b in range(top):
            if sign == "/":
                if b == 0:
                    continue
                left, right, result = a * b, b, a
            else:
                left, right, result = a, b, results[sign](a, b)
            if result >= 0:
                words = {"A": spelled(left), "B": spelled(right)}
                facts.append({"a": str(left), "b": str(right), "result": str(result)} | words)
    return facts
