// Package postgres makes a base backup into a running Postgres again, in a
// place of its own on this host: a folder holdfast-RUN below a directory that
// the operator names. It fulfils restore.Target.
//
// The promise: no file gets its name before all its bytes have the SHA-256
// that the manifest says; nothing is written, started or deleted outside of
// the folder; the server listens on a socket in that folder and on no
// network, runs none of the archiving, replication and preloading that its
// production self did, and ends before the folder is deleted, also when the
// process that started it is long gone.
//
// What is in the folder:
//
//	holdfast-scratch   the marker: holds the run's id; without it nothing is deleted
//	data/              the data directory
//	s/                 the socket
//	postgresql.conf, hba.conf, ident.conf, postgres.log
//
// Whoever can enter the folder (its owner, and root) is trusted as any role:
// the production's own passwords and rules are not used. We log in as the
// superuser that the manifest names, for it is not always called postgres.
//
//	target.go   New, Where, Check
//	place.go    the folder: made, marked, found again, removed
//	write.go    the files: piece by piece, named when proven
//	server.go   Start, Stop: settings, waiting, what the log said
//	find.go     the processes that work in a data directory
//	compare.go  the census of the restored cluster against the manifest
//	disturb.go  one row changed on purpose
package postgres
