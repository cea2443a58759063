// Package e2e drives the real engine with hezi by text scripts in testdata.
package e2e

import (
	"os"
	"testing"

	"hezi/test/harness"
)

var engine *harness.Engine

func TestMain(m *testing.M) { os.Exit(harness.Main(m, &engine)) }

func TestScripts(t *testing.T) { engine.Scripts(t) }
