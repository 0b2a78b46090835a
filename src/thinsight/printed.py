"""The vocabulary of ``data/published/*.csv``: its columns, and the words that may stand in them."""

COLUMNS = (
    "paper", "arxiv", "version", "table", "model", "method", "tokens", "row", "column", "value", "unit", "protocol",
    "source", "trust",
)  # fmt: skip
MAY_BE_EMPTY = frozenset({"arxiv", "version", "model", "tokens"})
SOURCES = frozenset({"own paper", "own readme", "own issue", "other paper", "digest", "blog"})
PAPERS = frozenset({"own paper", "own readme", "other paper"})  # sources whose authors publish the number as theirs
TRUST = frozenset({"paper", "readme", "issue", "quoted", "other-paper", "unverified"})

BENCHMARKS = (
    "ScienceQA-IMG", "ScienceQA", "TextVQA", "POPE", "GQA", "MMBench", "MMBench-CN", "VQAv2", "VizWiz", "MME", "MME-P",
    "MME-C", "MM-Vet", "SEED", "MMMU", "MMStar", "LLaVA-W", "OKVQA", "Flickr30k", "COCO", "NoCaps", "DocVQA",
    "OCRBench", "M3DocRAG EM", "M3DocRAG F1", "ImageNet top-1", "TGIF", "MSVD", "MSRVTT", "ActivityNet", "SEED video",
    "VideoChatGPT", "NextQA", "EgoSchema", "Video-MME", "MMBench or ScienceQA-IMG", "score (benchmark not recorded)",
)  # fmt: skip
SUMMARIES = (
    "average", "relative average", "relative average gain over the best before",
    "relative average gain over the method it is put on", "ScienceQA-IMG standard error",
)  # fmt: skip
COSTS = (
    "TFLOPs", "TFLOPs ratio", "GFLOPs", "GMACs", "FLOPs ratio", "FLOPs saving", "KV MB", "memory GB",
    "memory difference", "GPU memory saving", "visual tokens", "visual tokens, layer mean", "tokens kept",
    "token reduction", "token reduction against earlier methods",
)  # fmt: skip
TIMES = (
    "images/s", "requests/s", "speed", "speed-up", "latency", "latency saving", "end-to-end time", "prefill time",
    "prefill speed-up", "decode time per token", "decode speed-up", "decode throughput gain", "time to first token",
    "time to first token saving", "training time saving", "wall time", "wall time ScienceQA-IMG", "wall time MMBench",
    "wall time MME",
)  # fmt: skip
OTHERS = ("attention to 576 visual tokens", "attention to 35 system tokens")
SPELLINGS = BENCHMARKS + SUMMARIES + COSTS + TIMES + OTHERS
