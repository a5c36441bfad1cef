package config

import (
	"embed"
	"fmt"
	"path"
	"reflect"
	"regexp"
	"strings"

	"github.com/holdfast-dr/holdfast/replicate"
)

// Preset names the topics of one product and version.
type Preset string

// presetFiles are data: what each topic of a product is to a standby, and why.
//
//go:embed presets/*.yaml
var presetFiles embed.FS

// presetFile is a file of presets/.
type presetFile struct {
	Topics     []presetTopic `yaml:"topics"`
	CommitLogs []CommitLog   `yaml:"commit_logs"`
}

type presetTopic struct {
	Name       string      `yaml:"name"`
	Match      Pattern     `yaml:"match"`
	Class      presetClass `yaml:"class"`
	WhenShadow presetClass `yaml:"when_shadow"`
	Why        string      `yaml:"why"`
}

type presetClass string

// Spellings lists the classes.
func (presetClass) Spellings() []string {
	return []string{string(replicate.ClassMirror), string(replicate.ClassLocal), string(replicate.ClassRegenerate), string(replicate.ClassOptional)}
}

func presetNames() []string {
	files, err := presetFiles.ReadDir("presets")
	if err != nil {
		panic(fmt.Sprintf("config: read presets: %v", err)) // they are part of the binary
	}
	var names []string
	for _, f := range files {
		names = append(names, strings.TrimSuffix(f.Name(), ".yaml"))
	}
	return names
}

// Read returns the preset. With shadow, consumers of ClickHouse run in both
// regions, and what they produce is local.
func (p Preset) Read(shadow bool) (replicate.Preset, error) {
	name := path.Join("presets", string(p)+".yaml")
	text, err := presetFiles.ReadFile(name)
	if err != nil {
		return replicate.Preset{}, fmt.Errorf("preset %q is not in this binary; there is %s", string(p), strings.Join(presetNames(), ", "))
	}
	var file presetFile
	d := decoder{file: name, where: map[string]place{}, tainted: map[string]bool{}}
	if body := d.parse(text); body != nil {
		d.value(body, "", reflect.ValueOf(&file).Elem())
	}
	if len(d.problems) > 0 {
		return replicate.Preset{}, d.problems
	}
	out := replicate.Preset{Name: string(p)}
	for _, t := range file.Topics {
		class := t.Class
		if shadow && t.WhenShadow != "" {
			class = t.WhenShadow
		}
		out.Rules = append(out.Rules, replicate.PresetRule{Topic: t.Name, Match: t.Match.String(), Class: replicate.Class(class), Why: t.Why})
	}
	for _, l := range file.CommitLogs {
		out.CommitLogs = append(out.CommitLogs, replicate.CommitLog(l))
	}
	return out, nil
}

// CommitLogs are those of the file, and those of the preset on topics that the
// file does not name.
func (f *Fleet) CommitLogs() ([]replicate.CommitLog, error) {
	var out []replicate.CommitLog
	named := map[string]bool{}
	for _, l := range f.Mirror.CommitLogs {
		out = append(out, replicate.CommitLog(l))
		named[l.Topic] = true
	}
	if f.Mirror.Preset == "" {
		return out, nil
	}
	p, err := f.Mirror.Preset.Read(false)
	if err != nil {
		return nil, err
	}
	for _, l := range p.CommitLogs {
		if !named[l.Topic] {
			out = append(out, l)
		}
	}
	return out, nil
}

// Selection is which topics this fleet mirrors.
func (f *Fleet) Selection() (replicate.Selection, error) {
	include, exclude := texts(f.Mirror.Topics.Include), texts(f.Mirror.Topics.Exclude)
	for _, l := range f.Mirror.CommitLogs { // each region's own
		exclude = append(exclude, regexp.QuoteMeta(l.Topic))
	}
	if f.Mirror.Preset == "" {
		return replicate.NewSelection(include, exclude)
	}
	shadow := false
	for _, r := range f.Regions {
		shadow = shadow || r.ClickHouse != nil && r.ClickHouse.Follow == Shadow
	}
	p, err := f.Mirror.Preset.Read(shadow)
	if err != nil {
		return replicate.Selection{}, err
	}
	return replicate.NewPresetSelection(p, include, exclude)
}

func texts(list []Pattern) []string {
	var out []string
	for _, p := range list {
		out = append(out, p.String())
	}
	return out
}
