//! Locks, elections, queues and barriers over any etcd v3 server. Every hold carries a fencing token.
