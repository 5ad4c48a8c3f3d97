"""Corpora whose truth is known: made problems, and real solutions, with steps that say nothing new put in.

Everything here is a pure function of a seed and an index.

    catalogue      the list of tasks, and `make_problem`
    problem        the parts of a made problem: needed steps, the solved problem, the marked problem
    word_problems  arithmetic with a number of things
    al1            a linear equation in one unknown
    nbc            number base conversion by way of decimal
    diff_calc      the derivative of a polynomial at a point
    time_diff      the minutes between two clock times
    marks          redundant steps: their kinds, their wordings, where they go
    mark_text      the same redundant steps in real worked solutions
    slips          solutions of word problems with mistakes of a known kind
    checking       a proof that a made problem and its marks are right
    arithmetic     exact polynomials, numbers and equations in a text; what `checking` computes with

To add a task: a file with a function that returns a `SolvedProblem`, an entry in `catalogue.TASKS`, and a reader of its
questions in `checking.READERS`.
"""
