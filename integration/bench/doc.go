// Command bench measures what we do beside what the stores' own means do, in
// one run on one machine, and ends with one line of JSON.
//
// The work is fixed: what is copied, backed up or restored is there before the
// clock starts, the baseline moves the same bytes between the same servers,
// and the ways of doing it alternate. What counts is the ratio within a
// round: the machine is noisy. Nothing here passes or fails by its speed.
//
//	main.go               which bench
//	contest.go            ways that alternate, medians, ratios
//	machine.go            cores, load, memory
//	mirror.go             bench mirror: two Kafkas, flags, the report
//	mirror_process.go     what copies, each in a process of its own
//	mirror_copy.go        the mirror beside a consumer and producer
//	mirror_steady.go      lag and restart under a steady load
//	mirror_ends.go        seeding a prefix, promoting 1 000 partitions
//	mirror_maker.go       MirrorMaker 2 on the same work
//	backup.go             bench backup: flags, the report
//	backup_rig.go         its servers, and one take of a set
//	backup_postgres.go    base backups beside the bare stream
//	backup_clickhouse.go  packs beside the bare statement
//	backup_back.go        verify and restore beside reading and copying
package main
