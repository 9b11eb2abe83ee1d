import io.etcd.jetcd.ByteSequence;
import io.etcd.jetcd.Client;
import io.etcd.jetcd.election.LeaderKey;
import io.etcd.jetcd.lease.LeaseKeepAliveResponse;
import io.etcd.jetcd.support.CloseableClient;
import io.grpc.stub.StreamObserver;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

/** A contender by jetcd: Contend lock|election ENDPOINTS NAME TURNS [stay]. Both are services of the server. */
class Contend {
    private static final int TTL_SECONDS = 3;

    /** What is held: its token, which is the revision its key was created at, and how to give it back. */
    record Hold(long token, Release release) {}

    interface Release {
        void run() throws Exception;
    }

    public static void main(String[] arguments) throws Exception {
        String[] endpoints = Arrays.stream(arguments[1].split(",")).map(e -> "http://" + e).toArray(String[]::new);
        ByteSequence name = bytes(arguments[2]);
        int turns = Integer.parseInt(arguments[3]);
        boolean stay = arguments.length > 4;
        try (Client client = Client.builder().endpoints(endpoints).build()) {
            long lease = client.getLeaseClient().grant(TTL_SECONDS).get().getID();
            CloseableClient renewals = client.getLeaseClient().keepAlive(lease, new Renewals());
            for (int turn = 0; turn < turns || stay; turn++) {
                Hold hold = arguments[0].equals("lock") ? lock(client, name, lease) : campaign(client, name, lease);
                // On Linux this is the clock that all processes of the machine share.
                System.out.println("enter " + hold.token + " " + System.nanoTime());
                if (turn == turns) {
                    Thread.currentThread().join();
                }
                Thread.sleep(2);
                System.out.println("leave " + hold.token + " " + System.nanoTime());
                hold.release.run();
            }
            renewals.close();
            client.getLeaseClient().revoke(lease).get();
        }
    }

    private static Hold lock(Client client, ByteSequence name, long lease) throws Exception {
        ByteSequence key = client.getLockClient().lock(name, lease).get().getKey();
        long token = client.getKVClient().get(key).get().getKvs().get(0).getCreateRevision();
        return new Hold(token, () -> client.getLockClient().unlock(key).get());
    }

    private static Hold campaign(Client client, ByteSequence name, long lease) throws Exception {
        LeaderKey leader = client.getElectionClient().campaign(name, lease, bytes("java")).get().getLeader();
        return new Hold(leader.getRevision(), () -> client.getElectionClient().resign(leader).get());
    }

    private static ByteSequence bytes(String text) {
        return ByteSequence.from(text, StandardCharsets.UTF_8);
    }

    private static final class Renewals implements StreamObserver<LeaseKeepAliveResponse> {
        @Override
        public void onNext(LeaseKeepAliveResponse answer) {}

        @Override
        public void onError(Throwable error) {
            System.err.println("the lease is gone, and everything held by it: " + error);
            System.exit(1);
        }

        @Override
        public void onCompleted() {}
    }
}
