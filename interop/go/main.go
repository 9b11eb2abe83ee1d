// Drives a running cluster with Go's own etcd client and fails at the first thing that is not as clientv3 promises.
// As `contend WAY ENDPOINTS NAME TURNS [stay]` it is a contender of a trial across languages.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
)

func check(what string, err error) {
	if err != nil {
		log.Fatalf("%s: %v", what, err)
	}
}

func require(what string, holds bool) {
	if !holds {
		log.Fatalf("not so: %s", what)
	}
}

func main() {
	if len(os.Args) >= 6 && os.Args[1] == "contend" {
		turns, err := strconv.Atoi(os.Args[5])
		check("turns", err)
		contend(os.Args[2], strings.Split(os.Args[3], ","), os.Args[4], turns, slices.Contains(os.Args[6:], "stay"))
		return
	}
	endpoints := strings.Split(os.Args[1], ",")
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second})
	check("connect", err)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for _, part := range []struct {
		name string
		run  func(context.Context, *clientv3.Client)
	}{
		{"keys", keys},
		{"transactions", transactions},
		{"watches", watches},
		{"compaction", compaction},
		{"leases", leases},
		{"mutex", mutex},
		{"election", election},
		{"every member", everyMember},
	} {
		_, err := client.Delete(ctx, "go/", clientv3.WithPrefix())
		check("clean", err)
		part.run(ctx, client)
		fmt.Println("ok:", part.name)
	}
}

func keys(ctx context.Context, client *clientv3.Client) {
	put, err := client.Put(ctx, "go/a", "1")
	check("put", err)
	again, err := client.Put(ctx, "go/a", "2", clientv3.WithPrevKV())
	check("put", err)
	require("revisions go up by one", again.Header.Revision == put.Header.Revision+1)
	require("the previous value comes back", string(again.PrevKv.Value) == "1")
	for _, key := range []string{"go/b", "go/c", "go/d"} {
		_, err := client.Put(ctx, key, key)
		check("put", err)
	}
	got, err := client.Get(ctx, "go/", clientv3.WithPrefix(), clientv3.WithLimit(2),
		clientv3.WithSort(clientv3.SortByKey, clientv3.SortDescend))
	check("get", err)
	require("a sorted page of two of four", len(got.Kvs) == 2 && got.More && got.Count == 4 && string(got.Kvs[0].Key) == "go/d")
	old, err := client.Get(ctx, "go/a", clientv3.WithRev(put.Header.Revision))
	check("get", err)
	require("the past can be read", string(old.Kvs[0].Value) == "1")
	serializable, err := client.Get(ctx, "go/a", clientv3.WithSerializable())
	check("get", err)
	require("serializable", len(serializable.Kvs) == 1)
	deleted, err := client.Delete(ctx, "go/", clientv3.WithPrefix(), clientv3.WithPrevKV())
	check("delete", err)
	require("four deleted", deleted.Deleted == 4 && len(deleted.PrevKvs) == 4)
	_, err = client.Put(ctx, "", "")
	require("an empty key is refused", errors.Is(err, rpctypes.ErrEmptyKey))
}

func transactions(ctx context.Context, client *clientv3.Client) {
	create := func(value string) *clientv3.TxnResponse {
		answer, err := client.Txn(ctx).
			If(clientv3.Compare(clientv3.CreateRevision("go/t"), "=", 0)).
			Then(clientv3.OpPut("go/t", value)).
			Else(clientv3.OpGet("go/t")).
			Commit()
		check("txn", err)
		return answer
	}
	require("the first creates", create("1").Succeeded)
	second := create("2")
	require("the second reads", !second.Succeeded && string(second.Responses[0].GetResponseRange().Kvs[0].Value) == "1")
	_, err := client.Txn(ctx).Then(clientv3.OpPut("go/t", "1"), clientv3.OpPut("go/t", "2")).Commit()
	require("one key cannot be put twice", errors.Is(err, rpctypes.ErrDuplicateKey))
	var group sync.WaitGroup
	for range 8 {
		group.Add(1)
		go func() {
			defer group.Done()
			for range 10 {
				_, err := concurrency.NewSTM(client, func(stm concurrency.STM) error {
					stm.Put("go/count", stm.Get("go/count")+".")
					return nil
				})
				check("stm", err)
			}
		}()
	}
	group.Wait()
	got, err := client.Get(ctx, "go/count")
	check("get", err)
	require("eighty increments", len(got.Kvs[0].Value) == 80)
}

func watches(ctx context.Context, client *clientv3.Client) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first, err := client.Put(ctx, "go/w", "0")
	check("put", err)
	past := client.Watch(ctx, "go/", clientv3.WithPrefix(), clientv3.WithRev(first.Header.Revision), clientv3.WithPrevKV())
	live := client.Watch(ctx, "go/", clientv3.WithPrefix(), clientv3.WithCreatedNotify(), clientv3.WithFilterPut())
	require("created", (<-live).Created)
	for i := 1; i < 100; i++ {
		_, err := client.Put(ctx, "go/w", fmt.Sprint(i))
		check("put", err)
	}
	_, err = client.Delete(ctx, "go/w")
	check("delete", err)
	next := 0
	for next <= 100 {
		answer, open := <-past
		require("the watch stays open", open && answer.Err() == nil)
		for _, event := range answer.Events {
			if next < 100 {
				require("in order", event.IsCreate() == (next == 0) && string(event.Kv.Value) == fmt.Sprint(next))
			} else {
				require("a delete with what it deleted", event.Type == clientv3.EventTypeDelete && string(event.PrevKv.Value) == "99")
			}
			next++
		}
	}
	answer := <-live
	require("only the delete passes the filter", len(answer.Events) == 1 && answer.Events[0].Type == clientv3.EventTypeDelete)
	check("ask for progress", client.RequestProgress(ctx))
	progress := <-past
	require("progress", progress.IsProgressNotify())
}

func compaction(ctx context.Context, client *clientv3.Client) {
	first, err := client.Put(ctx, "go/c", "1")
	check("put", err)
	second, err := client.Put(ctx, "go/c", "2")
	check("put", err)
	_, err = client.Compact(ctx, second.Header.Revision, clientv3.WithCompactPhysical())
	check("compact", err)
	_, err = client.Get(ctx, "go/c", clientv3.WithRev(first.Header.Revision))
	require("the past is gone", errors.Is(err, rpctypes.ErrCompacted))
	answer := <-client.Watch(ctx, "go/c", clientv3.WithRev(first.Header.Revision))
	require("a watch from there says so", answer.Canceled && answer.CompactRevision == second.Header.Revision)
	_, err = client.Get(ctx, "go/c", clientv3.WithRev(second.Header.Revision+1000))
	require("so is the future", errors.Is(err, rpctypes.ErrFutureRev))
}

func leases(ctx context.Context, client *clientv3.Client) {
	short, err := client.Grant(ctx, 2)
	check("grant", err)
	kept, err := client.Grant(ctx, 3)
	check("grant", err)
	alive, err := client.KeepAlive(ctx, kept.ID)
	check("keep alive", err)
	_, err = client.Put(ctx, "go/short", "", clientv3.WithLease(short.ID))
	check("put", err)
	_, err = client.Put(ctx, "go/kept", "", clientv3.WithLease(kept.ID))
	check("put", err)
	gone := client.Watch(ctx, "go/short", clientv3.WithFilterPut())
	started := time.Now()
	<-gone
	require("not before its time", time.Since(started) > 1500*time.Millisecond)
	for range 3 {
		require("renewed", (<-alive).TTL == 3)
	}
	left, err := client.TimeToLive(ctx, kept.ID, clientv3.WithAttachedKeys())
	check("time to live", err)
	require("its key is known", left.TTL > 0 && len(left.Keys) == 1 && string(left.Keys[0]) == "go/kept")
	_, err = client.Revoke(ctx, kept.ID)
	check("revoke", err)
	got, err := client.Get(ctx, "go/kept")
	check("get", err)
	require("its key went with it", len(got.Kvs) == 0)
	_, err = client.Revoke(ctx, kept.ID)
	require("it is gone", errors.Is(err, rpctypes.ErrLeaseNotFound))
	_, err = client.KeepAliveOnce(ctx, kept.ID)
	require("and cannot be renewed", errors.Is(err, rpctypes.ErrLeaseNotFound))
}

func mutex(ctx context.Context, client *clientv3.Client) {
	var inside, entered atomic.Int32
	var group sync.WaitGroup
	for range 6 {
		group.Add(1)
		go func() {
			defer group.Done()
			session, err := concurrency.NewSession(client, concurrency.WithTTL(10))
			check("session", err)
			defer session.Close()
			lock := concurrency.NewMutex(session, "go/lock")
			for range 10 {
				check("lock", lock.Lock(ctx))
				require("alone", inside.Add(1) == 1)
				entered.Add(1)
				inside.Add(-1)
				check("unlock", lock.Unlock(ctx))
			}
		}()
	}
	group.Wait()
	require("everyone had a turn", entered.Load() == 60)
	holder, err := concurrency.NewSession(client)
	check("session", err)
	defer holder.Close()
	held := concurrency.NewMutex(holder, "go/lock")
	check("lock", held.TryLock(ctx))
	other, err := concurrency.NewSession(client)
	check("session", err)
	defer other.Close()
	err = concurrency.NewMutex(other, "go/lock").TryLock(ctx)
	require("a held lock cannot be taken", errors.Is(err, concurrency.ErrLocked))
}

func election(ctx context.Context, client *clientv3.Client) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	first, err := concurrency.NewSession(client)
	check("session", err)
	second, err := concurrency.NewSession(client)
	check("session", err)
	defer second.Close()
	one := concurrency.NewElection(first, "go/election")
	two := concurrency.NewElection(second, "go/election")
	check("campaign", one.Campaign(ctx, "one"))
	seen := two.Observe(ctx)
	require("one leads", string((<-seen).Kvs[0].Value) == "one")
	won := make(chan error, 1)
	go func() { won <- two.Campaign(ctx, "two") }()
	check("proclaim", one.Proclaim(ctx, "one again"))
	require("its new word is seen", string((<-seen).Kvs[0].Value) == "one again")
	check("close", first.Close())
	check("campaign", <-won)
	require("two leads", string((<-seen).Kvs[0].Value) == "two")
	leader, err := two.Leader(ctx)
	check("leader", err)
	require("and is named", string(leader.Kvs[0].Value) == "two")
	check("resign", two.Resign(ctx))
	_, err = two.Leader(ctx)
	require("nobody leads", errors.Is(err, concurrency.ErrElectionNoLeader))
}

func everyMember(ctx context.Context, client *clientv3.Client) {
	members, err := client.MemberList(ctx)
	check("member list", err)
	_, err = client.Put(ctx, "go/everywhere", "1")
	check("put", err)
	hashes := map[uint32]bool{}
	for _, member := range members.Members {
		endpoint := member.ClientURLs[0]
		status, err := client.Status(ctx, endpoint)
		check("status of "+endpoint, err)
		require("it knows a leader and has a size", status.Leader != 0 && status.DbSize > 0)
		alone, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 5 * time.Second})
		check("connect to "+endpoint, err)
		got, err := alone.Get(ctx, "go/everywhere")
		check("get from "+endpoint, err)
		require("it has the key", len(got.Kvs) == 1)
		hash, err := alone.HashKV(ctx, endpoint, got.Header.Revision)
		check("hash of "+endpoint, err)
		hashes[hash.Hash] = true
		alone.Close()
	}
	require("all members hash alike", len(hashes) == 1)
}
