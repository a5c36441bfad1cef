package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/holdfast-dr/holdfast/consensus"
	"github.com/holdfast-dr/holdfast/consensus/raft"
	"github.com/holdfast-dr/holdfast/internal/httpapi"
	"github.com/holdfast-dr/holdfast/internal/topology"
)

const (
	mirrorPath     = "/control/v1/mirror"
	forwardTimeout = 5 * time.Second
	pauseMax       = 24 * time.Hour
)

// mirrorOrder is a pause or a resume, on its way to the target's daemon.
type mirrorOrder struct {
	Resume bool               `json:"resume"`
	Hold   httpapi.MirrorHold `json:"hold"`
	By     string             `json:"by"`
}

// mountForward takes orders that only this node can carry out.
func (d *Daemon) mountForward(port *raft.Port) {
	port.Handle("POST "+mirrorPath, http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		var o mirrorOrder
		b, err := io.ReadAll(http.MaxBytesReader(w, req.Body, reportBytesMax))
		if err == nil {
			err = json.Unmarshal(b, &o)
		}
		if err == nil {
			err = d.orderHere(o)
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusConflict)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}))
}

func (d *Daemon) orderHere(o mirrorOrder) error {
	m := d.mirrors
	if m == nil {
		return errors.New("no mirror runs on this node")
	}
	if o.Resume {
		m.resume(o.Hold.Topics)
		d.log.Info("mirror resumed", "by", o.By, "topics", o.Hold.Topics)
		return nil
	}
	until := time.Now().Add(pauseMax)
	if !o.Hold.Until.IsZero() && o.Hold.Until.Before(until) {
		until = o.Hold.Until
	}
	if ids := m.pause(until); len(ids) == 0 {
		return fmt.Errorf("no mirror runs to %s", d.me.Region)
	}
	d.log.Warn("mirror paused", "by", o.By, "until", until.UTC().Format(time.RFC3339), "reason", o.Hold.Reason)
	return nil
}

func targets(links map[consensus.LinkID]consensus.Link, region topology.Region) bool {
	for _, l := range links {
		if l.To == region && l.Phase == consensus.LinkRunning {
			return true
		}
	}
	return false
}

// order brings an order to the daemons of the regions it names.
func (d *Daemon) order(ctx context.Context, o mirrorOrder) error {
	s := d.raft.State()
	body, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode the order: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	sent := false
	for _, region := range d.fleet.RegionNames() {
		if o.Hold.Region != "" && o.Hold.Region != region || o.Hold.Region == "" && !targets(s.Links, region) {
			continue
		}
		sent = true
		node, _ := d.fleet.NodeOf(region)
		if node == d.node {
			err = errors.Join(err, d.orderHere(o))
			continue
		}
		if _, callErr := callPeer(ctx, d.port, node, mirrorPath, body); callErr != nil {
			err = errors.Join(err, callErr)
		}
	}
	if !sent {
		return httpapi.Problemf(httpapi.NotFound, "reach the mirror", "`holdfast mirror status` shows the links", "nothing is mirrored to %q", string(o.Hold.Region))
	}
	return err
}
