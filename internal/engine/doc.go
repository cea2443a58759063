// Package engine is the life of containers: it brings the rooms together and
// is the only one that does.
//
//	created ─▶ running ◀─▶ paused        running, paused ─▶ restarting ─▶ running
//	   │          │           │
//	   │          ▼           │
//	   ├──────▶ exited ◀──────┘          exited ─▶ running
//	   ▼          │
//	removing ◀────┘ ─▶ dead ─▶ removing
package engine
