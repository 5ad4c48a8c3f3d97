"""A process that dies leaves its notes behind: that is how tests kill one."""

from actors.runs.journal import Journal
from actors.runs.storage import open_storage

ROWS = [f"row {i}" for i in range(1000)]


def journal(tmp_path, session="s"):
    return Journal(open_storage(str(tmp_path)), session)


def test_rows_that_were_done_are_no_suspects(tmp_path):
    first = journal(tmp_path)
    first.end(first.begin(ROWS[:3]))
    assert not any(journal(tmp_path).is_suspect(row) for row in ROWS[:3])


def test_deaths_narrow_the_suspects_down_to_the_culprit(tmp_path):
    culprit, innocent = ROWS[617], set()
    group, deaths = ROWS, 0
    while True:
        journal(tmp_path).begin(group)  # and dies
        deaths += 1
        now = journal(tmp_path)
        if now.is_convicted(culprit):
            break
        groups = now.groups([row for row in ROWS if row not in innocent])
        assert sum(map(len, groups)) == len(ROWS) - len(innocent)
        for each in groups:
            if culprit in each:
                group = each
                break
            now.end(now.begin(each))
            innocent.update(each)
    # 1000 -> 125 -> 15 -> 1, and once more to be sure
    assert deaths == 5
    assert not any(journal(tmp_path).is_convicted(row) for row in ROWS if row != culprit)


def test_a_row_is_not_convicted_for_sessions_that_were_killed(tmp_path):
    for session in ("1", "2", "3"):
        journal(tmp_path, session).begin(["a"])
        assert not journal(tmp_path, "next").is_convicted("a")
    journal(tmp_path, "4").begin(["a"])
    assert journal(tmp_path, "next").is_convicted("a")  # but not for ever: it may kill whole machines
