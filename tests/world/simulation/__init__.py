"""The whole system in one trio run under a simulated clock, with seeded faults, and a checker of its promises.

Real are: the ledger with its writer and its table of instances, projector, questions, register, barrier, feed service,
feeder with both of its ways, LMDB replica, reader and the endpoint with the decision. Made up are the wires, Redis,
the machines they stand on, and time. `python -m tests.world.simulation --help` says how to run it; decision 0021 what
it shows.
"""
