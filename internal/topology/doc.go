// Package topology names the places and the things that holdfast moves
// between them. It is the lowest package of the tree: everything may import
// it and it imports nothing of ours.
//
//   - A Region is a place with its own Kafka and stores.
//   - A Node is one holdfast daemon. A data region has exactly one; a witness
//     has no region, votes and holds no data.
//   - A Role is a thing exactly one region may do, such as ingestion.
//   - A Partition names one Kafka partition.
package topology
