"""Coverage-guided fuzzing of everything that reads a stranger's bytes.

`make fuzz`, or `python -m tests.fuzz --help`. A `Target` is one parser with its promise, checked on every input; the
parsers are instrumented, so that the fuzzer (Atheris, which is libFuzzer for Python) keeps the inputs that reach new
code and changes those further. Where random bytes would never get past the canonical form or a signature, a target's
mutator edits the decoded value, signs it again where its author could, and encodes it canonically.

    targets             the table of all targets
    target, mutators    what a target is, and how its inputs are changed
    messages, machines, nodes, files    the targets, from the smallest parser to whole state machines and files
    resigning           the signatures that a dishonest author of a message would make
    running             one target in a process of its own, with bounds on time and memory
"""
