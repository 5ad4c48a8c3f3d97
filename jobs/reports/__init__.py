"""Reports of runs, from their folders alone. No Ray here.

    page        report.html and report.json of any run
    refine      what was removed, what scoring cost (refine.html.j2)
    demos       perplexity along the path, and the demonstrations before and after (demos.html.j2)
    sample      number and length of samples (sample.html.j2)
    grade       right and wrong, and where the string rule differs (grade.html.j2)
    train       loss curves, and the data that was not used (train.html.j2)
    ranker      how well a ranker orders and how honest its scores are (ranker.html.j2)
    rank        scores of right and wrong samples (rank.html.j2)
    evaluate    votes, groups, pass@k and stopping rules (evaluate.html.j2)
    compare     paired differences of evaluations (compare.html.j2)
    pipeline    the graph of a pipeline's stages: status, time, tokens, cost, lineage (pipeline.html.j2)
    model_card  README.md of an adapter
    parts       what the reports share
    plots       the style of the SVG plots that each report draws

The report of a verb is the module with the verb's name and a template beside it, which extends page.html.j2.
"""
