"""What Sluice computes: pure functions and sans-IO generators, importable anywhere.

One file is one idea. Nothing here knows Ray, vLLM, the network or global state, and files only where PEFT
does, so nearly everything is tested with a table of numbers.

    chains         a question, its steps, its answer; splitting, and which step states the answer
    problems       a question, its gold answer, samples
    formats        one input record of a corpus -> a Chain or a Problem, or the reason why it is none
    chain_formats  corpora of worked solutions
    problem_formats  corpora of questions, with and without samples
    row_errors     why a row cannot be worked on
    answers/       final answers: extraction, equivalence, classes
    grading        the answer a solution states, whether it is right, and why if it cannot be told
    splits         train, validation, held out: by problem
    prompts        a question in a template or a conversation, with worked examples
    sampling       what a sample is, and where its randomness comes from
    lessons        rows of solutions -> lessons, right or wrong -> what must lie in one batch
    losses/        likelihood, NT, UL, CL, ORPO, NCE as pure functions
    nat/           Negative Assistant Training as a method of PEFT's; reads and writes adapter folders
    methods        each way to train: what it adds to a model, what it sees of the data, its loss
    prefix_forest  token sequences that share prefixes, flattened for one forward pass
    perplexity     which tokens count, and the exponential of their mean loss
    refinement     SPIRIT-FT as a generator: yields what it must know, returns a Refinement
    word_problems  generated multi-step arithmetic problems with redundant steps

To add an algorithm that needs a model: write a generator that yields requests (see `refinement`) and let
an actor answer them. To add a corpus format: one function and one entry in `formats.FORMATS`.
"""
