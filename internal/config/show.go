package config

import (
	"fmt"

	"github.com/goccy/go-yaml"
)

// YAML is the fleet as it is in effect, defaults included and secrets as
// stars: for people, not for loading.
func (f *Fleet) YAML() ([]byte, error) {
	text, err := yaml.MarshalWithOptions(f, yaml.Indent(2), yaml.IndentSequence(true))
	if err != nil {
		return nil, fmt.Errorf("show the fleet: %w", err)
	}
	return text, nil
}

// JSON is what YAML shows, for programs.
func (f *Fleet) JSON() ([]byte, error) {
	text, err := f.YAML()
	if err != nil {
		return nil, err
	}
	out, err := yaml.YAMLToJSON(text)
	if err != nil {
		return nil, fmt.Errorf("show the fleet: %w", err)
	}
	return out, nil
}
