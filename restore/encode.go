package restore

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/holdfast-dr/holdfast/backup"
)

// ReportBytesMax bounds an encoded report. What a report lists is bounded, so
// a greater one was not made by us.
const ReportBytesMax = 4 << 20

// Encode gives the report as it is stored.
func (r Report) Encode() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the report of drill %s: %w", r.Run, err)
	}
	if len(b) > ReportBytesMax {
		return nil, fmt.Errorf("encode the report of drill %s: it is %s, at most %s are allowed", r.Run, Bytes(int64(len(b))), Bytes(ReportBytesMax))
	}
	return append(b, '\n'), nil
}

// DecodeReport reads what Encode wrote. It refuses a report of a newer format,
// one that holds more than it knows, and one that contradicts itself: a drill
// is not OK when a part, a control or a comparison says otherwise.
func DecodeReport(b []byte) (Report, error) {
	if len(b) > ReportBytesMax+1 {
		return Report{}, fmt.Errorf("read a drill's report: it is %s, at most %s are read", Bytes(int64(len(b))), Bytes(ReportBytesMax))
	}
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return Report{}, fmt.Errorf("read a drill's report: %w", err)
	}
	switch {
	case head.Format < 1:
		return Report{}, errors.New("read a drill's report: it names no format")
	case head.Format > ReportFormat:
		return Report{}, fmt.Errorf("read a drill's report: it has format %d, this holdfast reads up to %d: use a newer one", head.Format, ReportFormat)
	}
	var r Report
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return Report{}, fmt.Errorf("read a drill's report: %w", err)
	}
	if d.More() {
		return Report{}, errors.New("read a drill's report: something follows it")
	}
	if err := r.consistent(); err != nil {
		return Report{}, fmt.Errorf("read the report of drill %s: %w", r.Run, err)
	}
	return r, nil
}

// consistent checks what the report says of itself against what it holds.
func (r Report) consistent() error {
	if r.OK {
		switch {
		case r.Fault != "" || r.Why != "":
			return errors.New("it is ok and names a fault")
		case len(r.Engines) == 0:
			return errors.New("it is ok and compared nothing")
		case len(r.Controls) == 0:
			return errors.New("it is ok and broke nothing on purpose")
		}
	} else if r.Fault != FaultSet && r.Fault != FaultDrill {
		return fmt.Errorf("it is not ok and its fault is %q", r.Fault)
	}
	seen := map[backup.Engine]bool{}
	for _, p := range r.Engines {
		if seen[p.Engine] {
			return fmt.Errorf("it compared %s twice", p.Engine)
		}
		seen[p.Engine] = true
		if r.OK && !p.OK || p.OK && p.Comparison.Different > 0 {
			return fmt.Errorf("%s differs", p.Engine)
		}
	}
	for _, c := range r.Controls {
		if r.OK && !c.Caught {
			return fmt.Errorf("it is ok and did not catch %s", c.Name)
		}
	}
	if r.RTOMs < 0 || r.RPOMs < 0 || r.Bytes < 0 {
		return errors.New("a figure is negative")
	}
	return nil
}
