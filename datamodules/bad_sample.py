"""What a sample that cannot be used is called, so that a run can leave it out and count it."""

KINDS = (
    "truncated_image",  # the bytes end before the picture does
    "not_an_image",  # no format we read, or its data are damaged
    "too_large",  # more pixels or bytes than the stated limit
    "empty_caption",  # there is a caption and nothing is in it
    "missing_caption",
    "missing_image",
    "empty_file",  # a member of zero bytes
    "not_utf8",
    "bad_json",
    "bad_array",
    "unreadable",  # the file system or the network refused
    "damaged_tar",
    "ends_workers",  # reading it twice ended the process that did
)


class BadSample(ValueError):  # noqa: N818  a kind of sample, caught and counted
    """One sample is unusable for the reason `kind` (one of KINDS); `detail` says more, on one line."""

    def __init__(self, kind: str, detail: str = ""):
        if kind not in KINDS:
            raise AssertionError(f"unknown kind of bad sample {kind!r}: add it to datamodules.bad_sample.KINDS")
        super().__init__(kind, detail)  # both are the arguments, so a pickle made in a worker process reads back
        self.kind = kind
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind
