package upkeep

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"hezi/internal/cli/endpoint"
)

// LastUsed asks when images were last used, by their ids. An engine that is not
// Hezi does not tell.
func LastUsed(ctx context.Context, engine *endpoint.Connection) (map[string]time.Time, error) {
	resp, err := engine.Call(ctx, http.MethodGet, "/images/json", nil, nil)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var list []struct {
		ID       string `json:"Id"`
		LastUsed int64
	}
	if err := json.NewDecoder(resp.Body).Decode(&list); err != nil {
		return nil, err
	}
	out := make(map[string]time.Time, len(list))
	for _, i := range list {
		if i.LastUsed > 0 {
			out[i.ID] = time.Unix(i.LastUsed, 0)
		}
	}
	return out, nil
}
