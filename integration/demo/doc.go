// Command demo is the main job, seen: an event pipeline on real Kafka and
// ClickHouse in two regions, moved from one to the other and back, by plan, by
// itself when a region is lost, and mended afterwards. Everything it claims
// it counts, with programs that know nothing of holdfast.
//
// The cast:
//
//	generator  a load balancer with events behind it: it asks both regions
//	           who is active, sends there, and never sends twice (generator.go)
//	effects    a consumer with side effects, under `holdfast guard` in both
//	           regions; it may run where the role is held only (effects.go)
//	index      a consumer that fills the region's ClickHouse, in both regions
//	           at once, each over its own Kafka (index.go)
//	count      compares what was acknowledged with what is there (count.go)
//	story      the acts, their narration and the closing table (story.go); the
//	           recovery set and its drill (recovery.go)
//
// The last line is JSON. The exit code is 0 only if every claim held.
package main
