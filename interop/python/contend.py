"""A contender in Python: contend.py lock-rpc|election-rpc ENDPOINTS NAME TURNS [stay].

Calls the server's lock and election services through stubs that grpcio-tools makes of proto/proto/*.proto:

    python -m grpc_tools.protoc -I proto/proto --python_out=stubs --grpc_python_out=stubs \
        rpc.proto kv.proto auth.proto v3lock.proto v3election.proto
    PYTHONPATH=stubs python contend.py lock-rpc 127.0.0.1:2379 jobs/nightly 1
"""

import sys
import threading
import time

import grpc
import rpc_pb2
import rpc_pb2_grpc
import v3election_pb2
import v3election_pb2_grpc
import v3lock_pb2
import v3lock_pb2_grpc


class Session:
    """A lease that a thread keeps alive."""

    def __init__(self, channel, ttl):
        self._leases = rpc_pb2_grpc.LeaseStub(channel)
        self._closed = threading.Event()
        self.lease = self._leases.LeaseGrant(rpc_pb2.LeaseGrantRequest(TTL=ttl)).ID
        renewal = rpc_pb2.LeaseKeepAliveRequest(ID=self.lease)

        def renewals():
            yield renewal
            while not self._closed.wait(ttl / 3):
                yield renewal

        def keep():
            for answer in self._leases.LeaseKeepAlive(renewals()):
                if answer.TTL <= 0:
                    raise RuntimeError("the lease is gone, and everything held by it")

        threading.Thread(target=keep, daemon=True).start()

    def close(self):
        self._closed.set()
        self._leases.LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=self.lease))


def lock_rpc(channel, name):
    """Returns a function that locks; that one returns the fencing token and what unlocks."""
    keys = rpc_pb2_grpc.KVStub(channel)
    locks = v3lock_pb2_grpc.LockStub(channel)
    session = Session(channel, ttl=3)

    def lock():
        held = locks.Lock(v3lock_pb2.LockRequest(name=name.encode(), lease=session.lease))
        # The token is the revision the key was created at.
        token = keys.Range(rpc_pb2.RangeRequest(key=held.key)).kvs[0].create_revision
        return token, lambda: locks.Unlock(v3lock_pb2.UnlockRequest(key=held.key))

    return lock, session.close


def election_rpc(channel, name):
    """As lock_rpc: a campaign, and what resigns."""
    elections = v3election_pb2_grpc.ElectionStub(channel)
    session = Session(channel, ttl=3)

    def campaign():
        request = v3election_pb2.CampaignRequest(name=name.encode(), lease=session.lease, value=b"python")
        leader = elections.Campaign(request).leader
        return leader.rev, lambda: elections.Resign(v3election_pb2.ResignRequest(leader=leader))

    return campaign, session.close


def main():
    way, endpoints, name, turns, *stay = sys.argv[1:]
    channel = grpc.insecure_channel(endpoints.split(",")[0])
    if way == "lock-rpc":
        acquire, close = lock_rpc(channel, name)
    elif way == "election-rpc":
        acquire, close = election_rpc(channel, name)
    else:
        sys.exit(f"{way} is no way to hold something")
    for turn in range(int(turns) + len(stay)):
        token, release = acquire()
        print("enter", token, time.monotonic_ns(), flush=True)
        if turn == int(turns):
            threading.Event().wait()
        time.sleep(0.002)
        print("leave", token, time.monotonic_ns(), flush=True)
        release()
    close()


if __name__ == "__main__":
    main()
