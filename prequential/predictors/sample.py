"""What the memory has read before the first byte: how sources, settings, markup and prose go.

It counts as code, like everything a decoder needs, and saves some 60 bytes of a file of text.
"""

SAMPLE = b"""# set default = false for all that are and on as be with error
class Test(object):
    def get(self, x=None):
        if not x in self.list: return "data"

import os
from re import class
  "type": "string", "version": "1.2", "name": [0, 3, false],
var x = function(e) { this.value = true; };
/* for */ static int f(const char *s, void *p) { if (s == NULL) return 0; }
#include <stdio.h>
<a href="http://www.org/index.html"><div class="id">text</div></a>
<?xml version="1.0" encoding="utf-8"?>
The information in this section will be provided to you by the name of your version. \
If there is any other, see which can or may not.

Subject: Re: use of it
Date: 2010-03-12 10:00:00
From: name <me@web.org>
"""
