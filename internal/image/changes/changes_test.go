package changes

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
)

// What Dockerfiles mean by the same lines (docs.docker.com/reference/dockerfile).
func TestApply(t *testing.T) {
	for name, c := range map[string]struct {
		changes []string
		want    string
	}{
		"exec and shell form":     {[]string{`CMD ["a", "b c"]`, `ENTRYPOINT a b`}, `{"Cmd":["a","b c"],"Entrypoint":["/bin/sh","-c","a b"]}`},
		"entrypoint drops a cmd":  {[]string{`entrypoint ["x"]`}, `{"Entrypoint":["x"]}`},
		"variables":               {[]string{"ENV A=1", `ENV B="$A ${A}2 \$A" C='$A' D=${X:-dflt} E=${A:+set} F=${X+no}`, "WORKDIR /srv/$A", "USER ${B}"}, `{"Cmd":["old"],"Env":["A=1","B=1 12 $A","C=$A","D=dflt","E=set","F="],"User":"1 12 $A","WorkingDir":"/srv/1"}`},
		"an old form":             {[]string{"ENV K a  b 'c'", "LABEL l some words"}, `{"Cmd":["old"],"Env":["K=a  b c"],"Labels":{"l":"some words"}}`},
		"env is replaced":         {[]string{"ENV A=1 B=2", "ENV A=3"}, `{"Cmd":["old"],"Env":["B=2","A=3"]}`},
		"several lines":           {[]string{"ENV A=1 \\\n  B=2\n# remark\n\nUSER me"}, `{"Cmd":["old"],"Env":["A=1","B=2"],"User":"me"}`},
		"ports":                   {[]string{"ENV P=80", "EXPOSE $P 81-82/udp"}, `{"Cmd":["old"],"Env":["P=80"],"ExposedPorts":{"80/tcp":{},"81/udp":{},"82/udp":{}}}`},
		"volumes":                 {[]string{`VOLUME ["/a b", "/c"]`, "VOLUME /d /e"}, `{"Cmd":["old"],"Volumes":{"/a b":{},"/c":{},"/d":{},"/e":{}}}`},
		"workdir goes on":         {[]string{"WORKDIR a", "workdir b/..", "WORKDIR c"}, `{"Cmd":["old"],"WorkingDir":"/a/c"}`},
		"healthcheck":             {[]string{"HEALTHCHECK --interval=5s --timeout=1m --start-period=1s --start-interval=2s --retries=3 CMD [\"a\",\"b\"]"}, `{"Cmd":["old"],"Healthcheck":{"Test":["CMD","a","b"],"Interval":5000000000,"Timeout":60000000000,"StartPeriod":1000000000,"StartInterval":2000000000,"Retries":3}}`},
		"no healthcheck":          {[]string{"HEALTHCHECK NONE"}, `{"Cmd":["old"],"Healthcheck":{"Test":["NONE"]}}`},
		"a signal and a trigger":  {[]string{"STOPSIGNAL SIGUSR1", "ONBUILD RUN make $X"}, `{"Cmd":["old"],"StopSignal":"SIGUSR1","OnBuild":["RUN make $X"]}`},
		"a backslash and a quote": {[]string{`LABEL a="it's \"so\"" b=it\ is c="x\n"`}, `{"Cmd":["old"],"Labels":{"a":"it's \"so\"","b":"it is","c":"x\\n"}}`},
		"nothing":                 {nil, `{"Cmd":["old"]}`},
	} {
		t.Run(name, func(t *testing.T) {
			config := dockerspec.DockerOCIImageConfig{}
			config.Cmd = []string{"old"}
			if err := Apply(&config, c.changes); err != nil {
				t.Fatal(err)
			}
			got, err := json.Marshal(config)
			if err != nil {
				t.Fatal(err)
			}
			var have, want any
			if json.Unmarshal(got, &have) != nil || json.Unmarshal([]byte(c.want), &want) != nil {
				t.Fatal("the test is wrong")
			}
			a, _ := json.Marshal(have)
			b, _ := json.Marshal(want)
			if string(a) != string(b) {
				t.Errorf("got  %s\nwant %s", a, b)
			}
		})
	}
}

func TestApplyRefuses(t *testing.T) {
	for change, want := range map[string]string{
		"RUN x": "run is not a valid change command", "FROM x": "from is not a valid change command", "CMD": "CMD needs a value",
		"": "no instructions", "# only a remark": "no instructions", `ENV "a`: "two arguments", `ENV a="b`: "is not closed", "ENV a": "two arguments", "ENV =b": "names can not be blank",
		"ENV a=b c": "can't find =", "ENV a=${b": "bad substitution", "ENV a=${b?c}": "unsupported modifier", "EXPOSE x": "x", "STOPSIGNAL NONE": "invalid signal: NONE",
		"ONBUILD ONBUILD x": "isn't allowed", "ONBUILD from x": "isn't allowed as an ONBUILD trigger", `VOLUME [""]`: "can not be an empty string",
		"HEALTHCHECK --what=1s NONE": "unknown option --what", "HEALTHCHECK --retries=-1 NONE": "cannot be negative", "HEALTHCHECK --interval=1us NONE": "less than 1ms", "HEALTHCHECK curl": "write HEALTHCHECK",
	} {
		err := Apply(&dockerspec.DockerOCIImageConfig{}, []string{change})
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "invalid change") {
			t.Errorf("%q: %v", change, err)
		}
	}
}

func FuzzApply(f *testing.F) {
	for _, s := range []string{"CMD x", "ENV a=$b c=\"d\\\"\" e='f'", "ENV a ${b:-c}", "LABEL \\", "EXPOSE 1-2", "VOLUME [\"a\"]", "HEALTHCHECK --retries=1 CMD x", "\\\n", "ENV a=${", "USER $"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		c := dockerspec.DockerOCIImageConfig{}
		if err := Apply(&c, []string{s}); err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", s, err)
		}
		for _, e := range c.Env {
			if k, _, ok := strings.Cut(e, "="); !ok || k == "" {
				t.Errorf("%q: variable %q", s, e)
			}
		}
	})
}
