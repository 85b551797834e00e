#!/usr/bin/env python3
"""Reads token files of pentafold with Megatron-LM's own reader, and the other way round.

megatron_check.py PENTAFOLD TEST_LAUNCH
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import types

SKIPPED = 77  # ctest counts this exit code as a skipped test


def load_indexed_dataset():
    """Megatron's module. Its package imports all of Megatron and wants torch; the module itself
    needs of them a base class, a few names and a log function."""
    spec = importlib.util.find_spec("megatron")
    if spec is None:
        raise ImportError("No module named 'megatron'")
    core = types.ModuleType("megatron.core")
    core.__path__ = [f"{folder}/core" for folder in spec.submodule_search_locations]
    utils = types.ModuleType("megatron.core.utils")
    utils.log_single_rank = lambda *_: None
    sys.modules |= {"megatron.core": core, "megatron.core.utils": utils}
    try:
        importlib.import_module("torch")
    except ImportError:
        torch = types.ModuleType("torch")
        torch.Tensor = object
        data = types.SimpleNamespace(Dataset=object)
        torch.utils = types.SimpleNamespace(data=data)
        torch.distributed = types.SimpleNamespace(is_initialized=lambda: False)
        sys.modules["torch"] = torch
    return importlib.import_module("megatron.core.datasets.indexed_dataset")


try:
    import numpy

    indexed = load_indexed_dataset()
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(SKIPPED)


def expect(found, wanted, what):
    assert found == wanted, f"{what}: found {found}, wanted {wanted}"


def expect_documents(prefix, documents, dtype):
    for mmap in (True, False):
        dataset = indexed.IndexedDataset(prefix, mmap=mmap)
        expect(dataset.index.dtype, dtype, f"{prefix}: type")
        expect(len(dataset), len(documents), f"{prefix}: sequences")
        expect(list(dataset.document_indices), list(range(len(documents) + 1)), f"{prefix}: documents")
        for number, document in enumerate(documents):
            expect(list(dataset[number]), list(document), f"{prefix}: document {number}")
    print(f"{os.path.basename(prefix)}: {len(documents)} documents of {dtype.__name__}")


def check_bytes(program, folder):
    texts = ["".join(f"größer {i * j}\n" for j in range(i * i % 37)) for i in range(500)]
    with open(f"{folder}/a.txt", "w", encoding="utf-8") as file:
        file.write("".join(text + "\f" for text in texts) + "last")
    with open(f"{folder}/b.jsonl", "w", encoding="utf-8") as file:
        for text in filter(None, texts):
            file.write(json.dumps({"text": text}) + "\n")
        file.write(json.dumps({"prompt": "what?", "answer": "that\f!"}) + "\n")
    subprocess.run(
        [program, "data", f"{folder}/a.txt", f"{folder}/b.jsonl", "--output", f"{folder}/bytes"],
        check=True,
    )
    documents = [text + "\f" for text in texts] + ["last"]
    documents += [text + "\f" for text in filter(None, texts)] + ["what?that\f!\f"]
    expect_documents(f"{folder}/bytes", [d.encode() for d in documents], numpy.uint8)


def write_with_builder(prefix, dtype, largest):
    """Three documents of 1, 3 and 2 sequences, the last of them by add_item."""
    builder = indexed.IndexedDatasetBuilder(f"{prefix}.bin", dtype=dtype)
    documents = [
        numpy.arange(5) * 3,
        largest - numpy.arange(12),
        numpy.array([largest, 0, 1, 2]),
    ]
    builder.add_document(documents[0], [5])
    builder.add_document(documents[1], [4, 1, 7])
    for part in (documents[2][:3], documents[2][3:]):
        builder.add_item(types.SimpleNamespace(numpy=lambda part=part: part))
    builder.end_document()
    builder.finalize(f"{prefix}.idx")
    with open(f"{prefix}.txt", "w", encoding="utf-8") as file:
        for document in documents:
            file.write(" ".join(map(str, document)) + "\n")


def check_widths(test, folder):
    write_with_builder(f"{folder}/theirs_u16", indexed.DType.optimal_dtype(60000), 59999)
    write_with_builder(f"{folder}/theirs_i32", indexed.DType.optimal_dtype(150000), 149999)
    done = subprocess.run(
        [test, "--gtest_filter=Megatron.*", "--gtest_brief=1"],
        env=os.environ | {"PENTAFOLD_MEGATRON_FILES": folder},
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    )
    assert "[  PASSED  ] 2 tests." in done.stdout, done.stdout
    print("theirs_u16, theirs_i32: read as they were written")
    for name, vocabulary, dtype in (
        ("ours_u16", 60000, numpy.uint16),
        ("ours_i32", 150000, numpy.int32),
    ):
        documents = [
            [i for byte in text for i in (byte, vocabulary - 1 - byte)] + [0]
            for text in (b"ab", b"", b"cde")
        ]
        expect_documents(f"{folder}/{name}", documents, dtype)


def main(program, test):
    with tempfile.TemporaryDirectory() as folder:
        check_bytes(program, folder)
        check_widths(test, folder)


main(*sys.argv[1:])
