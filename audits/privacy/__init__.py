"""Measures how much the real training path reveals about a patient: lower bounds on epsilon, beside the theory.

Distributed mode claims an epsilon against the aggregator and c colluding nodes, local mode against everybody else. Here
synthetic patients ("canaries") are in or out of the data by a fair coin, real nodes with their real trainers make the
sum, and a coalition guesses from everything it holds who was in. Guesses that are better than the theory allows refute
it.

A bound below the theory proves nothing; a bound above it proves a defect. So the audit also runs builds that each have
one known defect, and must detect every one of them.

    curves      privacy curves of one noised sum, in closed form and apart from `dp.accounting`
    bounds      three tests of such a curve against guesses, with the theorems they rest on
    canaries    patients whose gradient is one coordinate, and a model in which it is
    settings    a study for each way of training, and who looks for canaries in it
    sessions    rounds over canaries through nodes, trainers and protocol, as a coalition sees them
    builds      the real build, and builds with a defect
    report      the verdicts, for a terminal and for machines
    picture     theory and bounds as a picture
"""
