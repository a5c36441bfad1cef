//go:build !race

package consensus

const raceDetector = false // true makes long tests shorter
