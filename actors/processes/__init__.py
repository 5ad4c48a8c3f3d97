"""Child processes that can be killed, for code that no exception and no signal can stop.

    pool     calls with a limit of time and memory; a call past its limit is killed, and others go on
    grading  what the grader's processes run
    answers  what a server's processes run
    guard    ends a library's processes when this process dies

To use the pool for other work: a module of functions that import no Ray, and a `KillablePool` that preloads it.
"""
