"""One module per benchmark, one function per protocol: the same answer is right by one rule and wrong by another.

llava      what LLaVA-1.5's evaluation scripts compute (github.com/haotian-liu/LLaVA, commit c121f04): FiCoCo's protocol
lmms_eval  what lmms-eval computes (github.com/EvolvingLMMs-Lab/lmms-eval, commit 75571cf): VTW's protocol
official   what the benchmark's authors' own code computes

A task's ``protocol`` names the function; ``protocols`` in conf/task the file that it equals, ``unavailable`` why one is
missing. docs/protocols.md has them side by side. No text makes a scorer fail.
"""
