package httpapi

import (
	"context"
	"log/slog"
	"net/http"
	"path"
	"reflect"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/holdfast-dr/holdfast/internal/topology"
)

// bodyMax bounds a request; the largest names every topic of a fleet.
const bodyMax = 1 << 20

// Options say who answers.
type Options struct {
	Node    topology.Node
	Version string
	Log     *slog.Logger     // default: slog.Default
	Now     func() time.Time // default: time.Now
}

// New returns the handler of the API, with its description under
// /openapi.json and /openapi.yaml. Serve it with NewServer, so that the audit
// log knows who asks.
func New(b Backend, o Options) http.Handler {
	mux := http.NewServeMux()
	describe(mux, b, o)
	return mux
}

func describe(mux *http.ServeMux, b Backend, o Options) *huma.OpenAPI {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	config := huma.DefaultConfig("holdfast", o.Version)
	config.Info.Description = "What one daemon of a fleet knows and does. Nothing that moves traffic or discards data happens without the hash of a plan that was shown before."
	config.CreateHooks = nil // no $schema in answers
	config.DocsPath, config.SchemasPath = "", ""
	config.Components.Schemas = huma.NewMapRegistry("#/components/schemas/", schemaName)
	config.RejectUnknownQueryParameters = true
	config.Transformers = []huma.Transformer{oneKindOfProblem}
	api := humago.New(mux, config)
	s := &server{api: api, b: b, node: o.Node, log: o.Log, shown: newShown(o.Now)}
	s.operations()
	names := api.OpenAPI().Components.Schemas.Map()
	delete(names, "ErrorModel") // the library's own error: it is never sent
	delete(names, "ErrorDetail")
	return api.OpenAPI()
}

// oneKindOfProblem turns what the library says about bad requests into ours.
func oneKindOfProblem(_ huma.Context, _ string, v any) (any, error) {
	e, ok := v.(*huma.ErrorModel)
	if !ok {
		return v, nil
	}
	code := Internal
	if e.Status < http.StatusInternalServerError {
		code = Usage
	}
	p := Problemf(code, "request refused", "GET /openapi.yaml describes each request", "%s", e.Detail)
	p.Status = e.Status
	for _, d := range e.Errors {
		p.Detail += "; " + d.Error()
	}
	return p, nil
}

// schemaName tells types of one name apart by their package: Plan is ours,
// ConsensusPlan is the one in the log.
func schemaName(t reflect.Type, hint string) string {
	name := huma.DefaultSchemaNamer(t, hint)
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	pkg := path.Base(t.PkgPath())
	if t.Name() == "" || pkg == "httpapi" || pkg == "." || pkg == "v2" {
		return name
	}
	return strings.ToUpper(pkg[:1]) + pkg[1:] + name
}

type server struct {
	api   huma.API
	b     Backend
	node  topology.Node
	log   *slog.Logger
	shown *shown
}

// body is the answer of an operation.
type body[T any] struct{ Body T }

// Done is the answer of an act that has nothing else to say.
type Done struct {
	Done bool `json:"done"`
}

// operation says what an operation is for and how long it may take.
type operation struct {
	method, path string
	id           string // of the OpenAPI operation
	summary      string
	what         string // did not happen, when it fails: "plan failover"
	within       time.Duration
}

// handle registers an operation. Every error leaves as a Problem.
func handle[I, T any](s *server, o operation, answer func(ctx context.Context, in *I) (T, error)) {
	huma.Register(s.api, huma.Operation{
		OperationID: o.id, Method: o.method, Path: o.path, Summary: o.summary, MaxBodyBytes: bodyMax,
		Responses: map[string]*huma.Response{"default": s.problem()},
	}, func(ctx context.Context, in *I) (*body[T], error) {
		ctx, cancel := context.WithTimeout(ctx, o.within)
		defer cancel()
		out, err := answer(ctx, in)
		if err != nil {
			p := ProblemOf(o.what, err)
			if p.Code == Internal {
				s.log.Error("api call failed", "call", o.id, "error", err)
			}
			return nil, p
		}
		return &body[T]{out}, nil
	})
}

func (s *server) problem() *huma.Response {
	return &huma.Response{Description: "A problem: what, why, what to try.", Content: map[string]*huma.MediaType{
		"application/problem+json": {Schema: huma.SchemaFromType(s.api.OpenAPI().Components.Schemas, problemType)},
	}}
}
