"""Final answers: where a solution states its own, and which answers are the same.

    extraction   a solution's text -> the answer it states, and how it was found
    cleaning     the ways to write one thing, brought to one
    structure    an answer's text -> a tree: lists, intervals, matrices, relations, quantities, words
    equivalence  whether two answers are the same, by structure
    expressions  LaTeX -> SymPy by math-verify's parser, and exact comparison
    units        what a unit measures
    demands      the form a question demands of its answer: an order, factored, expanded
    string_rule  what comparing normalised texts says, for the comparison
    classes      many answers to one question -> classes of the same answer

Nothing here limits time: SymPy can think for hours about one expression. Whoever calls `equivalence` on answers
from models does so in a process that can be killed.
"""
