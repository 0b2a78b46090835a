"""Twenty rows of each benchmark in the columns of its data set on the hub, with drawn pictures, as local copies."""

import io
from pathlib import Path

from datasets import Dataset, Features, Image, List, Value
from PIL import Image as Pillow
from PIL import ImageDraw

COLOURS = ("red", "green", "blue", "orange", "purple")
TEXT, NUMBER, PICTURE = Value("string"), Value("int64"), Image()


def picture(number: int) -> dict:
    """A coloured disc or square on grey, wider than high, as an encoded file."""
    image = Pillow.new("RGB", (48, 32), (90, 90, 90))
    draw = ImageDraw.Draw(image)
    (draw.ellipse if number % 2 else draw.rectangle)((number % 16, 4, number % 16 + 22, 26), fill=COLOURS[number % 5])
    file = io.BytesIO()
    image.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": f"{number}.png"}


def save(folder: Path, rows: list[dict], features: dict, subset: str = "data", split: str = "test") -> Path:
    """The rows as the only parquet file of a split."""
    (folder / subset).mkdir(parents=True, exist_ok=True)
    path = folder / subset / f"{split}-00000-of-00001.parquet"
    Dataset.from_list(rows, features=Features(features)).to_parquet(path)
    return folder


def pope(folder: Path) -> Path:
    """Question numbers begin again in each category."""
    kinds = ("random", "popular", "adversarial")
    rows = [
        {
            "id": str(i),
            "question_id": str(i // 3 + 1),
            "question": f"Is there a {COLOURS[i % 4]} ball in the image?",
            "answer": ("yes", "no")[i // 3 % 2],
            "image_source": f"COCO_val2014_{i:012d}",
            "image": picture(i),
            "category": kinds[i % 3],
        }
        for i in range(20)
    ]
    names = ("id", "question_id", "question", "answer", "image_source", "category")
    return save(folder, rows, dict.fromkeys(names, TEXT) | {"image": PICTURE})


def gqa(folder: Path) -> Path:
    """Questions on five pictures, which lie in a subset of their own."""
    sorts = ("query", "verify", "choose", "compare", "logical")
    rows = [
        {
            "id": f"20{i:07d}",
            "imageId": f"n{i % 5}",
            "question": f"What colour is the thing {i}?",
            "answer": COLOURS[i % 5],
            "fullAnswer": f"The thing is {COLOURS[i % 5]}.",
            "isBalanced": True,
            "groups": {"global": "colour", "local": f"c{i}"},
            "entailed": "[]",
            "equivalent": "[]",
            "types": {"structural": sorts[i % 5], "semantic": "attr", "detailed": "weather"},
            "annotations": {"answer": [], "fullAnswer": [], "question": []},
            "semantic": [{"operation": "select", "argument": "thing", "dependencies": []}],
            "semanticStr": "select: thing->query: colour",
        }
        for i in range(20)
    ]
    named = List({"objectId": TEXT, "value": TEXT})
    features = {
        **dict.fromkeys(("id", "imageId", "question", "answer", "fullAnswer", "entailed", "equivalent"), TEXT),
        "isBalanced": Value("bool"),
        "groups": {"global": TEXT, "local": TEXT},
        "types": dict.fromkeys(("structural", "semantic", "detailed"), TEXT),
        "annotations": dict.fromkeys(("answer", "fullAnswer", "question"), named),
        "semantic": List({"operation": TEXT, "argument": TEXT, "dependencies": List(Value("int32"))}),
        "semanticStr": TEXT,
    }
    images = [{"id": f"n{i}", "image": picture(i)} for i in range(5)]
    save(folder, images, {"id": TEXT, "image": PICTURE}, "testdev_balanced_images", "testdev")
    return save(folder, rows, features, "testdev_balanced_instructions", "testdev")


def textvqa(folder: Path) -> Path:
    """Ten answers to each question, the first of them given eight times, two or four."""
    rows = [
        {
            "image_id": f"{i:016x}",
            "question_id": 34602 + i,
            "question": f"what is the number on sign {i}?",
            "question_tokens": ["what", "is", "the", "number"],
            "image": picture(i),
            "image_width": 48,
            "image_height": 32,
            "flickr_original_url": "",
            "flickr_300k_url": "",
            "answers": [f"no {i}"] * (8, 2, 4)[i % 3] + [f"{j} {i}" for j in range((2, 8, 6)[i % 3])],
            "image_classes": ["Sign"],
            "set_name": "val",
            "ocr_tokens": ["NO", str(i)] if i % 4 else [],
        }
        for i in range(20)
    ]
    features = {
        **dict.fromkeys(("image_id", "question", "flickr_original_url", "flickr_300k_url", "set_name"), TEXT),
        **dict.fromkeys(("question_id", "image_width", "image_height"), Value("int32")),
        **dict.fromkeys(("question_tokens", "answers", "image_classes", "ocr_tokens"), List(TEXT)),
        "image": PICTURE,
    }
    return save(folder, rows, features, split="validation")


def scienceqa(folder: Path) -> Path:
    """Two to four choices, every other question with a hint."""
    texts = {"task": "closed choice", "grade": "grade4", "topic": "physics", "category": "Matter", "skill": "Compare"}
    rows = [
        {
            "image": picture(i),
            "question": f"Which thing is heavier than thing {i}?",
            "choices": ["a ball", "a box", "a stone", "neither"][: 2 + i % 3],
            "answer": i % 2,
            "hint": f"The picture shows {i} things.\nLook at it." if i % 2 else "",
            **texts,
            "subject": ("natural science", "social science")[i % 2],
            "lecture": "",
            "solution": "",
        }
        for i in range(20)
    ]
    names = ("question", "hint", *texts, "subject", "lecture", "solution")
    features = dict.fromkeys(names, TEXT) | {"image": PICTURE, "choices": List(TEXT), "answer": Value("int8")}
    return save(folder, rows, features, "ScienceQA-IMG")


def mmbench(folder: Path) -> Path:
    """Six questions, once for each rotation of their three or four choices; empty cells are the word nan."""
    rows = []
    for question in range(6):
        choices = [f"{colour} thing" for colour in COLOURS[: 3 + (question % 3 == 1)]]
        for turn in range(len(choices)):
            turned = choices[turn:] + choices[:turn]
            rows.append(
                {
                    "index": str(241 + question + turn * 10**6),
                    "question": f"What is in picture {question}?",
                    "hint": "nan" if question % 2 else "It is not yellow.",
                    "answer": "ABCD"[turned.index(choices[0])],
                    **dict(zip("ABCD", [*turned, "nan"], strict=False)),
                    "category": ("object_localization", "attribute_recognition")[question % 2],
                    "image": picture(question),
                    "source": "drawn",
                    "L2-category": "finegrained_perception",
                    "comment": "nan",
                    "split": "dev",
                }
            )
    names = ("index", "question", "hint", "answer", *"ABCD", "category", "source", "L2-category", "comment", "split")
    return save(folder, rows, dict.fromkeys(names, TEXT) | {"image": PICTURE}, "en", "dev")


def mme(folder: Path) -> Path:
    """Two questions to each of ten pictures, under one id, of three categories of perception and one of cognition."""
    kinds = ("existence", "count", "OCR", "code_reasoning")
    rows = [
        {
            "question_id": f"{kinds[i % 4]}/{i:04d}.png",
            "image": picture(i),
            "question": f"Is there a {colour} ball in the image? Please answer yes or no.",
            "answer": said,
            "category": kinds[i % 4],
        }
        for i in range(10)
        for colour, said in ((COLOURS[i % 5], "Yes"), (COLOURS[(i + 1) % 5], "No"))
    ]
    names = ("question_id", "question", "answer", "category")
    return save(folder, rows, dict.fromkeys(names, TEXT) | {"image": PICTURE})


ALL = {"pope": pope, "gqa": gqa, "textvqa": textvqa, "scienceqa": scienceqa, "mmbench": mmbench, "mme": mme}
"""Name of the task -> what writes its copy into a folder and returns it."""
