"""What Sluice computes: pure functions and generators that do no I/O, importable anywhere.

One file is one idea. Nothing here knows Ray, vLLM, the network or global state; only PEFT's own loading reads files. So
a table of numbers is enough to test nearly everything.

    chains           a question, its steps, its answer; the steps as one text, and which step states the answer
    markup           formulas, environments, code, tables: spans that stay whole, and whether all that opens is closed
    segmentation     splitting a text into whole steps, by line, paragraph, sentence or pattern
    problems         a question, its gold answer, its samples
    formats          the list of corpus formats: one input record -> a Chain or a Problem, or the reason why not
    chain_formats    how records of worked solutions are read
    problem_formats  how records of questions, with and without samples, are read
    row_errors       the reasons why a row cannot be worked on
    answers/         final answers: extraction, equivalence, classes
    graded           a graded sample, as verbs read it that come after grading
    grading          the answer that a solution states, and whether it is right
    step_checks/     what a solution's text claims, and whether it holds
    voting/          votes over sampled answers, when to stop sampling, and replays of recorded samples
    ranking/         what a ranker knows of a solution, and how good its scores are
    splits           train, validation, held out: by problem
    prompts          the prompt of a question: a template or a conversation, with worked examples
    sampling         sampling parameters, samples, and where their randomness comes from
    lessons          rows of solutions -> lessons -> the examples that a method trains on
    micro_batches    tokenised examples -> tensors
    losses/          likelihood, NT, UL, CL, ORPO and NCE as pure functions
    nat/             Negative Assistant Training as a PEFT method: layer (with its gate), config, model, loading
    methods          the list of training methods: adapter, view of the data, loss
    prefix_forest    token sequences that share prefixes, flattened for one forward pass
    perplexity       which tokens count, and the exponential of their mean loss
    refinement       SPIRIT-FT as a generator: yields requests for perplexities, returns a Refinement
    demonstrations   SPIRIT-FS as a generator: shortens aligned few-shot demonstrations, or does so by chance
    tasks/           made problems, and real solutions, with redundant steps that are known

To add an algorithm that needs a model: write a generator that yields requests (see `refinement`), and let a worker in
`actors` answer them. To add a corpus format: a function and an entry in `formats.FORMATS`. To add a training method: an
entry in `methods.METHODS`.
"""
