package schema1

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

func layer(n int) digest.Digest { return digest.FromString(fmt.Sprint(n)) }

// manifest has the given history, the topmost first, each with a layer.
func manifest(v1 ...string) []byte {
	var fs, h []string
	for i, v := range v1 {
		fs = append(fs, fmt.Sprintf(`{"blobSum":%q}`, layer(len(v1)-i)))
		b, _ := json.Marshal(v)
		h = append(h, fmt.Sprintf(`{"v1Compatibility":%s}`, b))
	}
	return fmt.Appendf(nil, `{"schemaVersion":1,"name":"x","tag":"1","architecture":"arm64","fsLayers":[%s],"history":[%s]}`, strings.Join(fs, ","), strings.Join(h, ","))
}

func TestConfig(t *testing.T) {
	m, err := Parse(manifest(
		`{"id":"d","parent":"c","created":"2015-01-02T03:04:05Z","os":"linux","config":{"Cmd":["/a"]},"container_config":{"Cmd":["/bin/sh","-c","#(nop)  CMD [\"/a\"]"]},"throwaway":true,"Size":7,"docker_version":"1.8"}`,
		`{"id":"c","parent":"b","comment":"nothing"}`,
		`{"id":"b","parent":"a","author":"me"}`,
		`{"id":"b","parent":"a","author":"me"}`,
		`{"id":"a","created":null}`,
	))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(m.Layers()), fmt.Sprint([]digest.Digest{layer(1), layer(3), layer(4)}); got != want {
		t.Errorf("layers %s\nwant   %s", got, want)
	}
	config, kept, err := m.Config(func(d digest.Digest) digest.Digest {
		if d == layer(4) {
			return EmptyLayer
		}
		return digest.FromString("diff " + d.String())
	})
	if err != nil || fmt.Sprint(kept) != fmt.Sprint([]digest.Digest{layer(1), layer(3)}) {
		t.Error(kept, err)
	}
	want := fmt.Sprintf(`{"architecture":"arm64","config":{"Cmd":["/a"]},"container_config":{"Cmd":["/bin/sh","-c","#(nop)  CMD [\"/a\"]"]},"created":"2015-01-02T03:04:05Z","docker_version":"1.8",`+
		`"history":[{},{"author":"me"},{"comment":"nothing","empty_layer":true},{"created":"2015-01-02T03:04:05Z","created_by":"/bin/sh -c #(nop)  CMD [\"/a\"]","empty_layer":true}],`+
		`"os":"linux","rootfs":{"diff_ids":["%s","%s"],"type":"layers"}}`, digest.FromString("diff "+layer(1).String()), digest.FromString("diff "+layer(3).String()))
	if string(config) != want {
		t.Errorf("got  %s\nwant %s", config, want)
	}
	if got := digest.FromBytes(make([]byte, 1024)); got != EmptyLayer {
		t.Errorf("an empty archive is %s", got)
	}
}

func TestBroken(t *testing.T) {
	for _, s := range []string{
		``, `{}`, `{"schemaVersion":2}`, `{"schemaVersion":1}`, `{"schemaVersion":1,"fsLayers":[{"blobSum":"sha256:x"}],"history":[{"v1Compatibility":"{}"}]}`,
		`{"schemaVersion":1,"fsLayers":[],"history":[{"v1Compatibility":"{}"}]}`, string(manifest(`[]`)), string(manifest(`{"id":"b","parent":"x"}`, `{"id":"a"}`)), string(manifest(`null`)),
	} {
		if _, err := Parse([]byte(s)); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", s, err)
		}
	}
}

// signed adds signatures as Docker's clients did.
func signed(payload string) string {
	length := strings.LastIndexByte(payload, '\n')
	if length < 0 {
		length = strings.LastIndexByte(payload, '}')
	}
	protected, _ := json.Marshal(map[string]any{"formatLength": length, "formatTail": base64.RawURLEncoding.EncodeToString([]byte(payload[length:])), "time": "x"})
	return payload[:length] + fmt.Sprintf(`,"signatures":[{"header":{},"signature":"x","protected":%q}]}`, base64.RawURLEncoding.EncodeToString(protected))
}

func TestPayload(t *testing.T) {
	for _, p := range []string{"{\n   \"schemaVersion\": 1\n}", string(manifest(`{"id":"a"}`))} {
		if got := Payload([]byte(signed(p))); string(got) != p {
			t.Errorf("got %q\nof %q", got, signed(p))
		}
		if got := Payload([]byte(p)); string(got) != p {
			t.Errorf("got %q", got)
		}
	}
}

// FuzzParse: anything is read or refused, and what is read makes a config whose
// layers and diff ids agree.
func FuzzParse(f *testing.F) {
	f.Add(manifest(`{"id":"b","parent":"a"}`, `{"id":"a"}`))
	f.Add([]byte(signed("{\n \"schemaVersion\": 1\n}")))
	f.Add([]byte(`{"signatures":[{"protected":"eyJmb3JtYXRMZW5ndGgiOjl9"}]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		_ = Payload(body)
		m, err := Parse(body)
		if err != nil {
			return
		}
		config, kept, err := m.Config(func(d digest.Digest) digest.Digest { return d })
		if err != nil {
			return
		}
		var c struct {
			RootFS struct {
				DiffIDs []digest.Digest `json:"diff_ids"`
			} `json:"rootfs"`
		}
		if err := json.Unmarshal(config, &c); err != nil || len(c.RootFS.DiffIDs) != len(kept) || len(kept) > len(m.Layers()) {
			t.Errorf("%s: %v, %v, %v", config, kept, c.RootFS.DiffIDs, err)
		}
	})
}
