"""SPIRIT-FT and its rivals: shorten a reasoning chain to the steps that it needs.

Stepwise Perplexity-Guided Refinement (arXiv 2502.13260) as a generator without I/O:

    refine(chain, policy) -> Generator[ScoreRequest | MergeRequest, perplexities | MergeReply, Refinement]

    refine      the entry: one chain, one policy, the criterion that the policy names; and the random control
    policy      the options, and the recipes that set them together
    requests    what a refinement asks for: perplexities of texts, merges of steps
    outcomes    what it returns: the edits, the merges that were tried, the reason why it stopped
    draft       a chain under work: its steps, the texts of its variants, and the tokens that the scope scores
    dependence  what later steps use of a step: the guard that keeps it
    spirit      the greedy loop of the paper: remove, merge or stop
    merging     the merge of two neighbouring steps, and when it is faithful
    merge_prompt  the prompt for a merge, and what a model's reply to it says
    one_pass    criteria that rate every step once: PIR, surprisal, random

To add a criterion: a generator in a file here, an entry in `refine.CRITERIA`, its name in `policy.Criterion`.
"""
