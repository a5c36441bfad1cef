//go:build race

package consensus

const raceDetector = true // see race_off_test.go
