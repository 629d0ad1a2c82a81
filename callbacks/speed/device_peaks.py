"""Peak rates of dense matrix products by device and number format, for model FLOPs utilisation (MFU)."""

import re

# FLOP/s without structured sparsity; where NVIDIA states a rate "with sparsity", the half is taken. First match wins.
# As in Lightning's table: A100, H100 SXM and PCIe (compared in the tests), L4, V100, T4. B200, GB200: NVIDIA's table as
# quoted by others. H100 NVL, H200 NVL, L40S and A10 have not been checked; give peak_flops where it matters.
# "NVIDIA H100 80GB HBM3" and "NVIDIA GH200 480GB" are SXM parts.
_PEAKS: tuple[tuple[str, dict[str, float]], ...] = (
    (r"\bGB200\b", {"bfloat16": 2.5e15, "float16": 2.5e15, "tfloat32": 1.25e15, "float32": 80e12, "float64": 40e12}),
    (r"\bB200\b", {"bfloat16": 2.25e15, "float16": 2.25e15, "tfloat32": 1.1e15, "float32": 75e12, "float64": 37e12}),
    (
        r"\bH[12]00 NVL\b",
        {"bfloat16": 835.5e12, "float16": 835.5e12, "tfloat32": 417.5e12, "float32": 60e12, "float64": 30e12},
    ),
    (
        r"\bH200\b",
        {"bfloat16": 989.5e12, "float16": 989.5e12, "tfloat32": 494.7e12, "float32": 67e12, "float64": 34e12},
    ),
    (
        r"\bH100 PCIe\b",
        {"bfloat16": 756e12, "float16": 756e12, "tfloat32": 378e12, "float32": 51.2e12, "float64": 25.6e12},
    ),
    (
        r"\bG?H[12]00\b",
        {"bfloat16": 989.4e12, "float16": 989.4e12, "tfloat32": 494.7e12, "float32": 66.9e12, "float64": 33.5e12},
    ),
    (
        r"\bA[18]00\b",
        {"bfloat16": 312e12, "float16": 312e12, "tfloat32": 156e12, "float32": 19.5e12, "float64": 9.7e12},
    ),
    (r"\bL40S\b", {"bfloat16": 362e12, "float16": 362e12, "tfloat32": 183e12, "float32": 91.6e12}),
    (r"\bL4\b", {"bfloat16": 121e12, "float16": 121e12, "tfloat32": 60e12, "float32": 30.3e12}),
    (r"\bA10\b", {"bfloat16": 125e12, "float16": 125e12, "tfloat32": 62.5e12, "float32": 31.2e12}),
    (r"\bV100S?-SXM", {"float16": 125e12, "float32": 15.7e12, "float64": 7.8e12}),
    (r"\bT4\b", {"float16": 65e12, "float32": 8.1e12}),
)


def peak_flops(name: str, number_format: str) -> float | None:
    """Dense FLOP/s of a GPU by the name torch.cuda.get_device_name gives; None if it is not in the table.

    number_format: "float64", "float32" (no tensor cores), "tfloat32", "bfloat16" or "float16".
    """
    for pattern, peaks in _PEAKS:
        if re.search(pattern, name, re.IGNORECASE):
            return peaks.get(number_format)
    return None
