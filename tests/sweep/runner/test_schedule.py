"""Rounds of searches become cells, and losses of cells the answers to searches."""
from haiku_mup.sweep.runner.schedule import Schedule
from haiku_mup.sweep.trial import Trial

SMALL, LARGE = ("mup", 2), ("mup", 4)


def trials(program, *seeds):
    return [Trial(*program, (("lr", 0.5),), seed) for seed in seeds]


def search(answers, *rounds):
    """Asks for rounds; appends the seeds of the trials that have losses to `answers`."""
    for asked in rounds:
        losses = yield asked
        answers.append([trial.seed for trial in losses])


def started(failed, *searches):
    """Returns a schedule of two programs with cells of two trials, and a list of what has ended."""
    ended = []
    schedule = Schedule(searches, lambda *advance: ended.append(advance))
    schedule.start({program: 2 for program in (LARGE, SMALL) if program not in failed}, failed)
    return schedule, ended


def finish(schedule, program):
    cell = schedule.waiting[program].popleft()
    schedule.end(cell, [{"loss": trial.seed} for trial in cell])
    return [trial.seed for trial in cell]


def test_a_search_is_answered_when_all_cells_of_its_round_have_ended():
    answers = []
    schedule, ended = started({}, search(answers, trials(SMALL, 0, 1, 2), trials(LARGE, 3)))
    assert list(schedule.waiting) == [LARGE, SMALL]
    assert finish(schedule, SMALL) == [0, 1] and answers == [] and not schedule.waiting[LARGE]
    assert finish(schedule, SMALL) == [2] and answers == [[0, 1, 2]]
    assert finish(schedule, LARGE) == [3] and answers == [[0, 1, 2], [3]]
    assert ended == [("mup", 2, 2), ("mup", 2, 1), ("mup", 4, 1)]


def test_searches_do_not_wait_for_each_other():
    first, second = [], []
    schedule, _ = started({}, search(first, trials(SMALL, 0), trials(SMALL, 1)),
                          search(second, trials(LARGE, 2)))
    finish(schedule, LARGE)
    assert (first, second) == ([], [[2]])
    finish(schedule, SMALL)
    finish(schedule, SMALL)
    losses, missing = schedule.results()
    assert [trial.seed for trial in losses] == [0, 1, 2] and not missing       # in the order of the searches


def test_a_trial_that_was_given_up_has_no_losses():
    answers = []
    schedule, _ = started({}, search(answers, trials(SMALL, 0, 1, 2)))
    schedule.end(schedule.waiting[SMALL].pop(), ["lost"])
    finish(schedule, SMALL)
    assert answers == [[0, 1]]
    assert [(missing.trial.seed, missing.reason) for missing in schedule.results()[1]] == [(2, "lost")]


def test_a_search_goes_on_where_a_program_has_failed():
    answers = []
    schedule, ended = started({SMALL: "no such file"}, search(
        answers, trials(SMALL, 0, 1, 2), trials(SMALL, 3), trials(LARGE, 4)))
    assert answers == [[], []] and finish(schedule, LARGE) == [4] and answers == [[], [], [4]]
    losses, missing = schedule.results()
    assert [trial.seed for trial in losses] == [4] and [x.trial.seed for x in missing] == [0, 1, 2, 3]
    assert {x.reason for x in missing} == {"no such file"} and sum(n for *_, n in ended) == 5
