package main

import (
	"encoding/json"
	"fmt"
	"strings"
)

// event has the shape of what Sentry's Relay puts on ingest-events: an
// envelope around a JSON payload.
type event struct {
	Type      string `json:"type"`
	EventID   string `json:"event_id"`
	ProjectID int    `json:"project_id"`
	Start     int64  `json:"start_time"` // when the generator made it, Unix nanoseconds
	Via       string `json:"via"`        // the region it was sent to
	Payload   string `json:"payload"`
}

func newEvent(n int64, now int64, via string) event {
	payload := map[string]any{
		"platform": "go", "level": "error", "release": fmt.Sprintf("checkout@4.%d.0", n%7),
		"transaction": []string{"/cart", "/checkout", "/login"}[n%3],
		"exception":   map[string]string{"type": "TimeoutError", "value": "upstream took " + strings.Repeat("9", int(n%5)+1) + " ms"},
		"user":        map[string]int64{"id": n * 7919 % 10007},
	}
	body, err := json.Marshal(payload)
	if err != nil {
		panic(err) // plain data
	}
	return event{"event", fmt.Sprintf("%032x", n), int(n%20) + 1, now, via, string(body)}
}
