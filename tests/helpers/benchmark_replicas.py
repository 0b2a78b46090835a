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


def vqav2(folder: Path) -> Path:
    """Ten answers to each question, all alike or two of them different."""
    kinds = ("yes/no", "number", "other")
    rows = [
        {
            "question_type": "what",
            "multiple_choice_answer": COLOURS[i % 5],
            "answers": [
                {"answer": COLOURS[(i + (j > 7 and i % 2)) % 5], "answer_confidence": "yes", "answer_id": j + 1}
                for j in range(10)
            ],
            "image_id": i,
            "answer_type": kinds[i % 3],
            "question_id": 1000 + i,
            "question": f"What colour is thing {i}?",
            "image": picture(i),
        }
        for i in range(20)
    ]
    features = {
        **dict.fromkeys(("question_type", "multiple_choice_answer", "answer_type", "question"), TEXT),
        "answers": List({"answer": TEXT, "answer_confidence": TEXT, "answer_id": NUMBER}),
        "image_id": NUMBER,
        "question_id": NUMBER,
        "image": PICTURE,
    }
    return save(folder, rows, features, split="validation")


def vizwiz(folder: Path) -> Path:
    """Every fourth question cannot be answered."""
    rows = [
        {
            "question_id": f"VizWiz_val_{i:08d}",
            "image": picture(i),
            "question": f"What is this, Number {i}?",
            "answers": ["unanswerable"] * 8 + ["can", "box"] if i % 4 == 0 else ["Can"] * 4 + ["box"] * 6,
            "category": "unanswerable" if i % 4 == 0 else "other",
        }
        for i in range(20)
    ]
    names = ("question_id", "question", "category")
    return save(folder, rows, dict.fromkeys(names, TEXT) | {"image": PICTURE, "answers": List(TEXT)}, split="val")


def mmbench_cn(folder: Path) -> Path:
    """As `mmbench`, in the subset cn."""
    mmbench(folder)
    (folder / "en").rename(folder / "cn")
    return folder


def mmmu(folder: Path) -> Path:
    """Every fifth question is open, every fourth shows two pictures, some of them among the choices."""
    rows = []
    for i in range(20):
        two, open_ended = i % 4 == 3, i % 5 == 4
        choices = ["<image 2>" if two else "a ball", "a box's lid", "a stone", "none"][: 3 + i % 2]
        rows.append(
            {
                "id": f"validation_{('Art', 'Computer_Science')[i % 2]}_{i + 1}",
                "question": f"What is thing {i} in <image 1>{' and <image 2>' if two and open_ended else ''}?",
                "options": "[]" if open_ended else repr(choices),
                "explanation": "",
                **{f"image_{n}": picture(i + n) if n <= 1 + two else None for n in range(1, 8)},
                "img_type": "['Paintings']",
                "answer": "2.5" if open_ended else "ABC"[i % 3],
                "topic_difficulty": "Easy",
                "question_type": "open" if open_ended else "multiple-choice",
                "subfield": "Drawing",
            }
        )
    names = [name for name in rows[0] if not name.startswith("image")]
    features = dict.fromkeys(names, TEXT) | {f"image_{n}": PICTURE for n in range(1, 8)}
    return save(folder, rows, features, split="validation")


def seed(folder: Path) -> Path:
    """Twenty questions on a picture and four on the frames of a video, of pictures and frames alike a list."""
    rows = [
        {
            "answer": "ABCD"[i % 4],
            **{f"choice_{letter}": f"{colour} thing" for letter, colour in zip("abcd", COLOURS, strict=False)},
            "data_id": [str(i)] if i % 6 else [str(i), f"{i}b"],
            "data_type": "image" if i % 6 else "video",
            "question": f"What is thing {i}?",
            "question_id": str(100 + i),
            "question_type_id": 1 + i % 9 if i % 6 else 10,
            "image": [picture(i)] if i % 6 else [picture(i), picture(i + 1)],
            "segment": [] if i % 6 else [1, 2],
        }
        for i in range(24)
    ]
    names = ("answer", *(f"choice_{letter}" for letter in "abcd"), "data_type", "question", "question_id")
    lists = {"data_id": List(TEXT), "image": List(PICTURE), "segment": List(NUMBER)}
    return save(folder, rows, dict.fromkeys(names, TEXT) | lists | {"question_type_id": Value("int16")})


def mmstar(folder: Path) -> Path:
    """One file at the top of the folder."""
    parts = (("math", "geometry"), ("math", "statistical reasoning"), ("logical reasoning", "diagram reasoning"))
    rows = [
        {
            "index": i,
            "question": f"Which is thing {i}?\nOptions: A: a ball, B: a box, C: a stone, D: none ",
            "image": picture(i),
            "answer": "ABCD"[i % 4],
            "category": parts[i % 3][0],
            "l2_category": parts[i % 3][1],
            "meta_info": {"source": "drawn", "split": "val", "image_path": f"{i}.png"},
        }
        for i in range(20)
    ]
    names = ("question", "answer", "category", "l2_category")
    meta = dict.fromkeys(("source", "split", "image_path"), TEXT)
    features = dict.fromkeys(names, TEXT) | {"index": NUMBER, "image": PICTURE, "meta_info": meta}
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_list(rows, features=Features(features)).to_parquet(folder / "mmstar.parquet")
    return folder


def ai2d(folder: Path) -> Path:
    """The reference is the number of a choice, as a text."""
    rows = [
        {
            "question": f"What does the letter {'ABC'[i % 3]} stand for in diagram {i}?",
            "options": ["a leaf", "a root", "a stem", "a flower"],
            "answer": str(i % 4),
            "image": picture(i),
        }
        for i in range(20)
    ]
    return save(folder, rows, {"question": TEXT, "options": List(TEXT), "answer": TEXT, "image": PICTURE})


def ocrbench(folder: Path) -> Path:
    """Every fifth question is on a formula."""
    rows = [
        {
            "dataset": "HME100k" if i % 5 == 4 else "IIIT5K",
            "question": "Please write out the formula using LaTeX format." if i % 5 == 4 else "what is written ?",
            "question_type": "Handwritten Mathematical Expression Recognition"
            if i % 5 == 4
            else "Regular Text Recognition",
            "answer": [f"x ^ {i}"] if i % 5 == 4 else [f"Word {i}", f"word{i}"],
            "image": picture(i),
        }
        for i in range(20)
    ]
    names = ("dataset", "question", "question_type")
    return save(folder, rows, dict.fromkeys(names, TEXT) | {"answer": List(TEXT), "image": PICTURE})


def refcoco(folder: Path) -> Path:
    """Ten regions with two phrases each; a box is left, top, width and height in pixels."""
    rows = [
        {
            "question_id": str(i),
            "image": picture(i),
            "question": "Please carefully observe the area circled in the image and come up with a caption for it.",
            "answer": [f"thing {i}", "left one"],
            "segmentation": [0.0, 0.0, 1.0, 1.0],
            "bbox": [12.0, 4.0, 24.0, 8.0 + i],
            "iscrowd": 0,
            "file_name": f"COCO_train2014_{i:012d}_{i}.jpg",
        }
        for i in range(10)
    ]
    numbers = List(Value("float32"))
    features = {
        **dict.fromkeys(("question_id", "question", "file_name"), TEXT),
        "image": PICTURE,
        "answer": List(TEXT),
        "segmentation": numbers,
        "bbox": numbers,
        "iscrowd": Value("int8"),
    }
    return save(folder, rows, features, split="val")


def mmvet(folder: Path) -> Path:
    """Numbers with the letters that MM-Vet's own file has."""
    rows = [
        {
            "question_id": f"v1_{i}",
            "image": picture(i),
            "question": f"What can be said of thing {i}?",
            "answer": f"{COLOURS[i % 5]} <OR> thing {i}",
            "image_source": "drawn",
            "capability": ("ocr", "rec,know", "rec,ocr,spat")[i % 3],
        }
        for i in range(20)
    ]
    names = ("question_id", "question", "answer", "image_source", "capability")
    return save(folder, rows, dict.fromkeys(names, TEXT) | {"image": PICTURE})


def llava_w(folder: Path) -> Path:
    """Five questions on each of four pictures."""
    rows = [
        {
            "question_id": i,
            "question": f"Describe thing {i}.",
            "image": picture(i // 5),
            "caption": f"A drawing of a {COLOURS[i // 5]} thing.",
            "gpt_answer": f"It is {COLOURS[i // 5]}.",
            "category": ("conv", "detail", "complex")[i % 3],
            "image_id": f"{i // 5:03d}.jpg",
        }
        for i in range(20)
    ]
    names = ("question", "caption", "gpt_answer", "category", "image_id")
    return save(folder, rows, dict.fromkeys(names, TEXT) | {"question_id": NUMBER, "image": PICTURE}, split="train")


ALL = {
    "pope": pope,
    "gqa": gqa,
    "textvqa": textvqa,
    "scienceqa": scienceqa,
    "mmbench": mmbench,
    "mme": mme,
    "vqav2": vqav2,
    "vizwiz": vizwiz,
    "mmbench_cn": mmbench_cn,
    "mmmu": mmmu,
    "seed": seed,
    "mmstar": mmstar,
    "ai2d": ai2d,
    "ocrbench": ocrbench,
    "refcoco": refcoco,
    "mmvet": mmvet,
    "llava_w": llava_w,
}
"""Name of the task -> what writes its copy into a folder and returns it."""

JUDGED = ("mmvet", "llava_w")
"""Those that no rule scores."""

WITHOUT_IDS = frozenset({"scienceqa", "ai2d", "ocrbench", "refcoco"})
"""Tasks whose data sets have no ids of questions."""
