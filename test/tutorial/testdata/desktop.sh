#!/bin/sh
# The desktop of the image: its screen, what draws on it, and two ways to see it.
set -eu
export DISPLAY=:0 HOME=/root
Xvfb $DISPLAY -screen 0 "${RESOLUTION:-1024x768}x24" -nolisten tcp &
until [ -S /tmp/.X11-unix/X0 ]; do sleep 0.1; done
icewm-session >/dev/null 2>&1 &
x11vnc -storepasswd "$VNC_PASSWORD" /root/.vncpasswd
x11vnc -display $DISPLAY -rfbport 5900 -rfbauth /root/.vncpasswd -forever -shared -quiet &
exec websockify --web /usr/share/novnc 80 localhost:5900
