"""Final answers: extract them from solutions and compare them.

    extraction   a solution's text -> the answer it states, and how it was found
    cleaning     normalise notation: Unicode, spacing, fractions, text commands
    structure    an answer's text -> a tree: lists, intervals, matrices, relations, quantities, words
    equivalence  whether two answers are equal, by structure
    expressions  parse LaTeX to SymPy with math-verify's parser, and compare exactly
    units        what a unit measures, its exact size, and what it counts
    numerals     numbers in words, and decimals that repeat
    asked        what a question asks for, where the text of an answer alone cannot tell: a ratio, a pair, an option
    demands      the form that a question demands: an order, factored, expanded
    string_rule  the string-matching grader, as a baseline
    classes      many answers to one question -> classes of equal answers, at once or one by one
    kinds        the kinds of answers that a server can be asked for: mathematics, a choice, a text, JSON

Nothing here limits time, and SymPy can take hours on one expression. Call `equivalence` on answers from models
only in a process that you can kill.
"""
