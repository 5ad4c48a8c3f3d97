"""Votes over sampled answers, and rules that say when enough samples are drawn: pure functions of arrays.

    tally        what the answers seen so far add up to, for each class: the one input of votes and rules
    votes        the table METHODS: sc, ws, asc, asc+1, asc+2, posterior and the bounds first and oracle
    features     the features of an answer class that `posterior` reads
    posterior    the probability that each class is right, by conditional logistic regression
    stopping     the table RULES: fixed, beta, window, cges, beta-weighted and gain
    gain         the expected gain of going on to the full budget, learned from replays
    pools        recorded samples of many problems as arrays, and the tally after every sample
    recorded     lists or flat columns of recorded samples -> pools
    sweeps       the thresholds at which each rule is replayed
    replay       what each rule would have used and reached on recorded pools, in many random orders
    curves       accuracy against samples, intervals, and the threshold for a wanted accuracy
    intervals    bootstrap over problems
    evaluation   votes and rules on recorded pools, with models fitted on other problems
    summaries    an evaluation as numbers with intervals
    comparison   two evaluations, paired by problem
    online       a vote while its samples arrive: what a server decides
    policy       a vote and a stopping rule, as one thing that can be saved and served

One array layout serves a single question and a replay of thousands: a `Tally` has any number of leading axes and
ends in an axis of answer classes. So a rule that serves a request is the same code as the rule that was replayed.

To add a method of voting: a function of a tally and an entry in `votes.METHODS`. To add a stopping rule: a subclass of
`stopping.Rule` with a `statistic`, and an entry in `stopping.RULES`.
"""
