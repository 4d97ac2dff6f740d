"""Many avatars: a list of subjects goes through the programs, each stage a process of its own (docs/fleet.md).

`subjects` reads the list, `stages` says what each stage runs and leaves, `attempt` and `worker` do one stage of one
subject so that it appears complete or not at all, `schedulers` and `ray_scheduler` decide where, `driver` says in which
order, `facts` and `index_page` tell about it, `slurm` writes the same as a job array.
"""
