package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/concurrency"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"golang.org/x/sys/unix"
)

// A hold is given back by calling it.
type hold func(context.Context) error

// The ways to hold something under a name. Each waits until it is held, and returns the token of the hold, which is
// the revision its key was created at.
var ways = map[string]func(context.Context, *concurrency.Session, string) (int64, hold, error){
	"mutex":        lockMutex,
	"try-lock":     tryLock,
	"lock-rpc":     lockRPC,
	"election":     campaign,
	"election-rpc": campaignRPC,
}

// contend takes its turns and says on stdout when each began and ended. If it is to stay it takes one more and stays in it.
func contend(way string, endpoints []string, name string, turns int, stay bool) {
	client, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second})
	check("connect", err)
	defer client.Close()
	session, err := concurrency.NewSession(client, concurrency.WithTTL(3))
	check("session", err)
	defer session.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out := bufio.NewWriter(os.Stdout)
	for turn := 0; turn < turns || stay; turn++ {
		token, release, err := ways[way](ctx, session, name)
		check(way, err)
		fmt.Fprintln(out, "enter", token, now())
		check("say so", out.Flush())
		if turn == turns {
			select {}
		}
		time.Sleep(2 * time.Millisecond)
		fmt.Fprintln(out, "leave", token, now())
		check("say so", out.Flush())
		check("release", release(ctx))
	}
}

// Nanoseconds of the clock that all processes of the machine share.
func now() int64 {
	var time unix.Timespec
	check("clock", unix.ClockGettime(unix.CLOCK_MONOTONIC, &time))
	return time.Nano()
}

// createdAt is the token of whoever holds by the key.
func createdAt(ctx context.Context, session *concurrency.Session, key string) (int64, error) {
	got, err := session.Client().Get(ctx, key)
	if err != nil {
		return 0, err
	}
	if len(got.Kvs) == 0 {
		return 0, fmt.Errorf("the key %s of a hold is gone", strconv.Quote(key))
	}
	return got.Kvs[0].CreateRevision, nil
}

func lockMutex(ctx context.Context, session *concurrency.Session, name string) (int64, hold, error) {
	mutex := concurrency.NewMutex(session, name)
	if err := mutex.Lock(ctx); err != nil {
		return 0, nil, err
	}
	token, err := createdAt(ctx, session, mutex.Key())
	return token, mutex.Unlock, err
}

func tryLock(ctx context.Context, session *concurrency.Session, name string) (int64, hold, error) {
	mutex := concurrency.NewMutex(session, name)
	for {
		err := mutex.TryLock(ctx)
		if errors.Is(err, concurrency.ErrLocked) {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		if err != nil {
			return 0, nil, err
		}
		token, err := createdAt(ctx, session, mutex.Key())
		return token, mutex.Unlock, err
	}
}

func lockRPC(ctx context.Context, session *concurrency.Session, name string) (int64, hold, error) {
	service := v3lockpb.NewLockClient(session.Client().ActiveConnection())
	held, err := service.Lock(ctx, &v3lockpb.LockRequest{Name: []byte(name), Lease: int64(session.Lease())})
	if err != nil {
		return 0, nil, err
	}
	release := func(ctx context.Context) error {
		_, err := service.Unlock(ctx, &v3lockpb.UnlockRequest{Key: held.Key})
		return err
	}
	token, err := createdAt(ctx, session, string(held.Key))
	return token, release, err
}

func campaign(ctx context.Context, session *concurrency.Session, name string) (int64, hold, error) {
	election := concurrency.NewElection(session, name)
	if err := election.Campaign(ctx, "go"); err != nil {
		return 0, nil, err
	}
	return election.Rev(), election.Resign, nil
}

func campaignRPC(ctx context.Context, session *concurrency.Session, name string) (int64, hold, error) {
	service := v3electionpb.NewElectionClient(session.Client().ActiveConnection())
	request := &v3electionpb.CampaignRequest{Name: []byte(name), Lease: int64(session.Lease()), Value: []byte("go")}
	won, err := service.Campaign(ctx, request)
	if err != nil {
		return 0, nil, err
	}
	resign := func(ctx context.Context) error {
		_, err := service.Resign(ctx, &v3electionpb.ResignRequest{Leader: won.Leader})
		return err
	}
	return won.Leader.Rev, resign, nil
}
