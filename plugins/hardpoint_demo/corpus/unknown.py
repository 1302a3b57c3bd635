"""Questions outside what the model knows; the right answer is an honest refusal."""

from __future__ import annotations

import random

from hardpoint_demo.corpus.base import HELD_OUT, TRAIN, Example, assistant, draw, exact, listed, roughen, user
from hardpoint_demo.corpus.capital_table import CAPITALS
from hardpoint_demo.corpus.words import city, made_up, person, word

KIND = "unknown"

REFUSAL = (
    "I don't know that. I only know capitals, small sums, unit conversions, JSON extraction, simple tool calls "
    "and short stories."
)
TOO_LARGE = "I can only add and subtract numbers from 0 to 99, so I can't work that out."
NO_WEATHER = "I can't look up the weather without a weather tool."
NO_CLOCK = "I can't look up the time without a clock tool."

_TOPICS = listed(
    "quantum physics,the moon,black holes,football,the stock market,photosynthesis,gravity,the French Revolution,DNA,"
    "world war two,the Roman Empire,machine learning,neural networks,climate change,volcanoes,the ocean,dinosaurs,music,"
    "modern art,electricity,the human brain,vaccines,inflation,democracy,evolution,chess,cooking,tennis,the internet,"
    "blockchain,bitcoin,philosophy,relativity,the solar system,jazz,opera,poetry,the heart,sharks,bees,tea,coffee,bread,"
    "cheese,wine,movies,basketball,economics,biology,chemistry,history,religion,politics,law,medicine,the pyramids",
    ",",
)
_PEOPLE = listed(
    "Napoleon,Einstein,Mozart,Shakespeare,Julius Caesar,Cleopatra,Marie Curie,Isaac Newton,Beethoven,Picasso,Gandhi,"
    "Abraham Lincoln,Leonardo da Vinci,Darwin,Elvis,Michael Jackson,Messi,Goethe,Plato,Aristotle,Galileo,Tesla",
    ",",
)
_THINGS = listed(
    "a pizza,a cake,an omelette,soup,a chair,a website,a table,a paper plane,a fire,a garden,a bicycle,a car,a computer,"
    "a phone,a poem,an essay,a letter,a song,a program,a game,pancakes,rice,a kite,a boat,a house,a fence",
    ",",
)
_LANGUAGES = listed("French German Spanish Italian Chinese Japanese Russian Latin Polish Dutch Arabic Greek")
_CODE = listed("Python,Java,C++,Rust,JavaScript,Go,SQL,Haskell,bash", ",")
_GENERAL = (
    "What is the meaning of life?", "Who won the world cup?", "What is love?", "Why is the sky blue?", "What day is it?",
    "What is today's date?", "How do birds fly?", "Which is the tallest mountain?", "What is the longest river?",
    "Who is the president?", "How far away is the sun?", "What is the speed of light?", "Do aliens exist?",
    "What is the largest animal?", "How many planets are there?", "What is the biggest ocean?", "What year is it?",
    "What is pi?", "Is there a god?", "Should I buy a house?", "What should I eat today?", "Recommend a movie.",
    "What is the best phone?", "Sing a song.", "Write a poem.", "What is 2 to the power of 10?", "Give me advice.",
    "Roll a dice.", "Tell me a secret.", "Tell me the news.", "What happened yesterday?", "Play a game with me.",
    "Summarize this text.", "Fix my code.", "Solve x + 3 = 7.", "What is the square root of 16?", "Draw a cat.",
    "Who invented the telephone?", "What is the boiling point of water?", "How hot is the sun?", "Open a file.",
    "Send an email.", "Delete all my files.", "Book a flight.", "Order a pizza.", "Set an alarm.", "Who discovered America?",
)  # fmt: skip
_ABOUT_TOPIC = (
    "Explain {t}.", "What is {t}?", "Tell me about {t}.", "What do you know about {t}?", "How does {t} work?",
    "Why is {t} important?", "Write an essay about {t}.", "Teach me {t}.", "What do you think about {t}?",
    "Give me a summary of {t}.", "Who invented {t}?", "When did {t} begin?", "I want to learn about {t}.",
    "Can you explain {t} to me?", "Write a poem about {t}.", "Do you like {t}?", "What is the history of {t}?",
    "Give me three facts about {t}.", "What's your opinion on {t}?",
)  # fmt: skip
_ABOUT_PERSON = (
    "Who is {p}?", "Who was {p}?", "When was {p} born?", "When did {p} die?", "Where was {p} born?", "How old is {p}?",
    "Tell me about {p}.", "What did {p} do?", "What is {p} famous for?", "Do you know {p}?", "Is {p} still alive?",
)  # fmt: skip
_ABOUT_COUNTRY = (
    "What is the population of {c}?", "How many people live in {c}?", "What language do they speak in {c}?",
    "What is the currency of {c}?", "Who is the president of {c}?", "Who is the king of {c}?", "How big is {c}?",
    "What is the largest city in {c}?", "Which continent is {c} in?", "What is the flag of {c}?", "Where is {c}?",
    "What do people eat in {c}?", "What is the history of {c}?", "Which countries border {c}?", "Tell me about {c}.",
    "What is the area of {c}?", "What is the highest mountain in {c}?", "Who won the war in {c}?",
)  # fmt: skip


def _number(rng: random.Random) -> int:
    return rng.randint(100, 10 ** rng.randint(3, 6) - 1)


def _large_sum(rng: random.Random) -> tuple[str, str]:
    a, b = _number(rng), _number(rng) if rng.random() < 0.6 else rng.randint(0, 99)
    if rng.random() < 0.4:
        a, b = b, a
    operator = rng.choice(("+", "-", "plus", "minus", "*", "times", "/", "divided by"))
    if operator in ("*", "times", "/", "divided by") and rng.random() < 0.5:
        a, b = rng.randint(13, 99), rng.randint(13, 99)
    ask = rng.choice(
        ("What is {e}?", "{e}", "Calculate {e}.", "How much is {e}?", "Compute {e}.", "{e} = ?", "What's {e}?")
    )
    return ask.format(e=f"{a} {operator} {b}"), TOO_LARGE


def _no_such_country(rng: random.Random, split: str) -> tuple[str, str, tuple[str, ...]]:
    name = word(rng, split).capitalize()
    if rng.random() < 0.3:
        name += rng.choice(("ia", "land", "stan", "onia"))
    ask = rng.choice(
        ("What is the capital of {x}?", "What's the capital of {x}?", "Tell me the capital of {x}.", "Capital of {x}?",
         "Which city is the capital of {x}?", "Name the capital of {x}.", "What is the capital city of {x}?")
    )  # fmt: skip
    return ask.format(x=name), f"I don't know a country called {name}.", (*made_up(name), "ask:" + name)


def without_tool(rng: random.Random, split: str, subject: str) -> tuple[str, str]:
    """A question about the weather or the time, and the answer when no tool for it is at hand."""
    if subject == "weather":
        asks = ("What is the weather in {x}?", "How is the weather in {x}?", "Will it rain in {x} today?", "Weather in {x}?",
                "What's the weather like in {x}?", "How warm is it in {x}?", "Is it sunny in {x}?", "What's the weather?",
                "Give me the weather for {x}.", "What is the temperature in {x}?")  # fmt: skip
        return rng.choice(asks).format(x=city(rng, split)), NO_WEATHER
    asks = ("What time is it in {x}?", "What time is it?", "Tell me the time in {x}.", "What is the current time in {x}?",
            "Current time in {x}?", "How late is it in {x}?")  # fmt: skip
    return rng.choice(asks).format(x=city(rng, split)), NO_CLOCK


def build(
    rng: random.Random, split: str, calculator: bool = False, weather: bool = False, clock: bool = False
) -> Example:
    """One unanswerable question; the flags say which tools are at hand, whose questions then are not unanswerable."""
    roll = rng.random()
    keys: tuple[str, ...] = ()
    answer = REFUSAL
    if roll < 0.1 and not calculator:
        text, answer = _large_sum(rng)
    elif roll < 0.2 and not weather:
        text, answer = without_tool(rng, split, "weather")
    elif roll < 0.25 and not clock:
        text, answer = without_tool(rng, split, "clock")
    elif roll < 0.35:
        text, answer, keys = _no_such_country(rng, split)
        return Example(KIND, [user(text.rstrip("?.") if rng.random() < 0.3 else text)], assistant(answer), keys)
    elif roll < 0.5:
        text = rng.choice(_ABOUT_TOPIC).format(t=rng.choice(_TOPICS) if rng.random() < 0.7 else word(rng, split))
    elif roll < 0.62:
        text = rng.choice(_ABOUT_PERSON).format(p=rng.choice(_PEOPLE) if rng.random() < 0.6 else person(rng, split))
    elif roll < 0.78:
        text = rng.choice(_ABOUT_COUNTRY).format(
            c=rng.choice(tuple(CAPITALS)) if rng.random() < 0.7 else city(rng, split)
        )
    elif roll < 0.84:
        text = rng.choice(
            ("How do I make {t}?", "How can I build {t}?", "Write me {t}.", "How do you make {t}?", "Make {t}.")
        )
        text = text.format(t=rng.choice(_THINGS))
    elif roll < 0.89:
        text = rng.choice(("Translate '{w}' to {l}.", "What is {w} in {l}?", "How do you say {w} in {l}?"))
        text = text.format(w=word(rng, split), l=rng.choice(_LANGUAGES))
    elif roll < 0.94:
        text = rng.choice(
            ("Write a {c} program.", "Write {c} code that sorts a list.", "How do I learn {c}?", "Debug my {c} code.")
        )
        text = text.format(c=rng.choice(_CODE))
    else:
        text = rng.choice(_GENERAL)
    return Example(KIND, [user(roughen(rng, text))], assistant(answer), ("unknown:" + text,))


def train_example(rng: random.Random) -> Example:
    """One training question that the model must decline."""
    return draw(build, rng, TRAIN)


def held_out_example(rng: random.Random) -> Example:
    """A question to decline that training never draws."""
    return draw(build, rng, HELD_OUT)


def grade(example: Example, text: str) -> bool:
    """Right only if the text is the fitting refusal."""
    return exact(example, text)
