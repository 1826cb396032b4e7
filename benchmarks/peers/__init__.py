"""What a user could pick, or write, in place of the engine: the same lookup over the same data.

Each is a program, `python -m benchmarks.peers.NAME`, that prints its port and serves until it is killed; what
it connects to comes as the environment variables of `benchmarks.peers.lookup.Wiring`. They are written as
their frameworks' own pages show it, and then made fast where an afternoon's profiling leads: uvloop,
httptools, no access log, prepared statements, a pool that is full from the start and spends no round trip on
resetting a connection that was only read from, numbers told apart without a library. They do less than the
engine: no attempts are counted, no call is recorded, and whoever proved a PIN is forgotten.
"""
