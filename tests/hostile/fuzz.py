"""`python -m tests.hostile.fuzz TARGET FOLDER ... [-libfuzzer_option=...]`: Atheris on one of the parsers."""

import sys

import atheris

with atheris.instrument_imports(include=["gateway", "inference.asks", "inference.intake", "msgspec", "starlette"]):
    from tests.hostile.targets import TARGETS

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
