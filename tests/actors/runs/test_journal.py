"""A process that dies leaves its notes behind: that is how tests kill one."""

from actors.runs.journal import Journal, drop_committed, forgive, read_notes
from actors.runs.storage import open_storage

ROWS = [f"row {i}" for i in range(1000)]


def journal(tmp_path, session="s"):
    return Journal(open_storage(str(tmp_path)), session)


def test_rows_that_were_done_are_no_suspects(tmp_path):
    first = journal(tmp_path)
    first.end(first.begin(ROWS[:3]))
    assert not any(journal(tmp_path).is_suspect(row) for row in ROWS[:3])


def test_one_death_makes_no_suspects(tmp_path):
    journal(tmp_path).begin(ROWS[:3])  # and dies
    assert not any(journal(tmp_path).is_suspect(row) for row in ROWS)
    journal(tmp_path).begin(ROWS[2:5])
    assert [row for row in ROWS if journal(tmp_path).is_suspect(row)] == [ROWS[2]]


def test_deaths_with_a_node_count_half(tmp_path):
    for deaths in range(1, 5):
        Journal(open_storage(str(tmp_path)), "s", node="gone").begin(["a"], alone=True)
        now = Journal(open_storage(str(tmp_path)), "s", dead_nodes={"gone"})
        assert now.is_suspect("a") == now.is_convicted("a") == (deaths == 4)


def test_deaths_narrow_the_suspects_down_to_the_culprit(tmp_path):
    culprit, innocent = ROWS[617], set()
    journal(tmp_path).begin(ROWS)
    group, deaths = ROWS, 1
    while True:
        journal(tmp_path).begin(group, alone=deaths > 1)  # and dies
        deaths += 1
        now = journal(tmp_path)
        if now.is_convicted(culprit):
            break
        groups = now.groups([row for row in ROWS if row not in innocent], at_most=1000)
        assert sum(map(len, groups)) == len(ROWS) - len(innocent)
        for each in groups:
            if culprit in each:
                group = each
                break
            now.end(now.begin(each, alone=True))
            innocent.update(each)
    # twice 1000 -> 125 -> 15 -> 1, and once more to be sure
    assert deaths == 6
    assert not any(journal(tmp_path).is_convicted(row) for row in ROWS if row != culprit)
    assert max(map(len, now.groups(ROWS, at_most=4))) == 4


def test_a_row_is_not_convicted_for_sessions_that_were_killed(tmp_path):
    for session in ("1", "2", "3"):
        journal(tmp_path, session).begin(["a"], alone=True)
        assert not journal(tmp_path, "next").is_convicted("a")
    journal(tmp_path, "4").begin(["a"], alone=True)
    assert journal(tmp_path, "next").is_convicted("a")  # but not for ever: it may kill whole machines


def test_the_last_words_of_a_process_name_the_reason(tmp_path):
    note = journal(tmp_path).begin(["a"], alone=True)
    note.with_error("ValueError: no such token").write()
    assert journal(tmp_path).last_words("a") == "ValueError: no such token"
    assert journal(tmp_path).last_words("b") is None


def test_a_person_who_ends_a_session_convicts_nobody(tmp_path):
    storage = open_storage(str(tmp_path))
    for session in ("mine", "other"):
        journal(tmp_path, session).begin(["a"], alone=True)
    forgive(storage, "mine")
    assert [note.session for note in read_notes(storage)] == ["other"]


def test_notes_go_once_all_their_rows_are_committed(tmp_path):
    storage = open_storage(str(tmp_path))
    first = journal(tmp_path)
    first.begin(["a", "b"], ["s0", "s1"])
    first.begin(["a", "c"], ["s0", "s1"])
    drop_committed(storage, {"s0": {"a"}, "s1": {"b"}}.get)
    assert [note.ids for note in read_notes(storage)] == [("a", "c")]
